import CLinux
import Checkpoint
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

/// Everything that is decided before the first task exists: the tree, the schedule that makes it, and where the executors live.
public struct Plan {
  let restore: RestoreContext
  let tree: RecordedTree
  /// Which of its levels of PIDs is which here.
  let levels: Levels
  let schedule: ForkSchedule
  let tasks: [RestoredTask]
  /// For each task, the core images of its threads but the leader.
  let threadCores: [[CoreImage]]
  /// The highest number of a descriptor that any task has.
  let highestDescriptor: UInt32
  /// How many pages have their bytes in the images.
  let pages: UInt64
  /// Tasks rest until it is their turn: the tree is large.
  let rests: Bool
  /// The area's address and the page after it, both free in the layout of every task.
  let areaAddress: UInt64
  let slotSizes: [Int]
  let stubAddress: UInt64
  /// Room for a vDSO on its way.
  let detourAddress: UInt64
  /// Where tasks that have another kernel's vDSO at its old place get this kernel's.
  let besideAddress: UInt64

  /// Which slot of the area is whose.
  let leaderSlot: [Int]
  let threadSlots: [[Int]]
  let helperSlot: [Int]

  private static let leaderSlotSize = 16 * pageSize
  /// Who has many mappings has longer programs: between two of them the task waits for the tracer.
  private static let mostCallsMore = 1500
  private static let smallSlotSize = 2 * pageSize
  private static let detourSize = 16 * UInt64(pageSize)

  /// Compares every image with its checksum, if the dump has written them.
  public static func verify(images: String) throws(Failure) { try LoadedCheckpoint.verify(images: images) }

  /// Reads the images and plans their restore. Nothing is changed.
  public init(_ options: RestoreOptions, images: String) throws(Failure) {
    do throws(Failure) {
      self = try Plan(of: try LoadedCheckpoint(options, images: images), options)
    } catch {
      throw error.advised("Nothing was made. The images are damaged, or not of this program's making; dump again.")
    }
  }

  private init(of checkpoint: consuming LoadedCheckpoint, _ options: RestoreOptions) throws(Failure) {
    restore = checkpoint.restore
    let reading = checkpoint.reading
    (tasks, threadCores) = (reading.tasks, reading.threadCores)
    tree = try RecordedTree(copy checkpoint)
    checkpoint.forgetTree()
    levels = Levels(tree, options)
    var schedule = try Self.schedule(tree, levels, options)
    schedule.forgetDependencies()
    self.schedule = schedule
    try reading.examine()
    try restore.checkUsers()
    (rests, pages) = (reading.rests, reading.examination.pages)
    highestDescriptor = reading.examination.highestDescriptor
    let ownLevel = levels.tool
    try restore.concede(tasks, threadCores, nested: tree.tasks.contains { $0.pids.count - 1 > ownLevel })

    var sizes: [Int] = []
    func slot(_ size: Int) -> Int {
      sizes.append(size)
      return sizes.count - 1
    }
    // Who lives on comes first: the others learn from them that the tracer is gone (ExecutorArea), not the other way round.
    var leaders = [Int](repeating: 0, count: tasks.count)
    for (i, task) in tasks.enumerated() where !task.isZombie {
      let calls = rests ? 0 : min(task.memory.vmas.count / 8, Self.mostCallsMore)
      leaders[i] = slot(Self.leaderSlotSize + Slot.bytes(calls: calls))
    }
    threadSlots = threadCores.map { cores in cores.map { _ in slot(Self.smallSlotSize) } }
    for (i, task) in tasks.enumerated() where task.isZombie { leaders[i] = slot(Self.smallSlotSize) }
    leaderSlot = leaders
    helperSlot = schedule.helpers.map { _ in slot(Self.smallSlotSize) }
    slotSizes = sizes

    let areaSize = UInt64(ExecutorArea.size(slots: sizes))
    let size = areaSize + UInt64(2 * pageSize) + 2 * Self.detourSize
    guard let gap = reading.examination.occupied.gap(of: size) else {
      throw Failure(
        "mm-\(tasks[0].pid).img and others: the tasks' memory leaves no common gap of \(size) bytes below 0x700000000000 for the executors")
    }
    areaAddress = gap
    stubAddress = areaAddress + areaSize + UInt64(pageSize)
    detourAddress = stubAddress + UInt64(pageSize)
    besideAddress = detourAddress + Self.detourSize
  }

  /// The steps that make the tree of the images again, whatever else in them cannot be restored.
  /// With the nanoseconds that it took to find them.
  public static func schedule(_ options: RestoreOptions, images: String) throws(Failure)
    -> (schedule: ForkSchedule, nanoseconds: UInt64)
  {
    do throws(Failure) {
      let tree = try RecordedTree(try LoadedCheckpoint(options, images: images, isExamined: false))
      let begin = nanoseconds()
      let schedule = try schedule(tree, Levels(tree, options), options)
      return (schedule, nanoseconds() - begin)
    } catch {
      throw error.advised("The images are damaged, or not of this program's making; dump again.")
    }
  }

  private static func schedule(_ tree: RecordedTree, _ levels: Levels, _ options: RestoreOptions) throws(Failure)
    -> ForkSchedule
  {
    // The kernel takes MAX_PID_NS_LEVEL numbers (kernel/fork.c: copy_clone_args_from_user), one less than tasks can have.
    if options.pidMethod != .nsLastPID, let deep = tree.tasks.first(where: { $0.pids.count - levels.outermostNamed > 32 }) {
      throw Failure(
        "pstree.img: task \(deep.pids.map(\.description).joined(separator: "/")) has PIDs at \(deep.pids.count) levels; clone3 can choose 32",
        advice: "Restore with --pid-method ns-last-pid, or inside one of its PID namespaces.")
    }
    do throws(ScheduleError) {
      return try ForkSchedule.compute(
        tree,
        options: ForkSchedule.Options(
          shellJob: options.shellJob, outermostNamedLevel: levels.outermostNamed,
          newPIDNamespace: options.newPIDNamespace))
    } catch {
      throw Failure("pstree.img: the tree cannot be made again: \(error.description(in: tree))", advice: error.advice)
    }
  }

  /// What the images say of a task is forgotten until it is its turn again, if the tree is large.
  func rest(_ task: RestoredTask) { if rests { task.rest() } }

  /// Has a task that rests know again what the images say of it. Each thread has images of its own.
  func wake(_ task: RestoredTask, _ parts: RestoredTask.Parts, _ images: TaskImages) throws(Failure) {
    try images.wake(task, parts)
  }

  /// The number of a task's leader's slot.
  func slot(of task: RestoredTask) -> Int { leaderSlot[Int(task.index)] }

  /// Whether a task's descriptor table is another task's too.
  func sharesFiles(_ index: Int) -> Bool { tree.tasks[index].shares.files != nil }
  func sharesFiles(_ task: RestoredTask) -> Bool { sharesFiles(Int(task.index)) }
  /// Whether a task has its descriptors, or its root and working directory, in common with another.
  func shares(_ task: RestoredTask) -> Bool {
    let shares = tree.tasks[Int(task.index)].shares
    return shares.files != nil || shares.fs != nil
  }
}
