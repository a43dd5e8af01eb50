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
  let threadCores: [[CoreImage]]
  /// From a PID to its place among the tasks.
  private let numbers: [UInt32: Int]
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
    tasks = checkpoint.tasks
    threadCores = checkpoint.threadCores
    for task in tasks { restore.tasks[task.pid] = task }
    numbers = Dictionary(tasks.enumerated().map { ($1.pid, $0) }, uniquingKeysWith: { first, _ in first })
    tree = try RecordedTree(copy checkpoint)
    checkpoint.forgetTree()
    levels = Levels(tree, options)
    schedule = try Self.schedule(tree, levels, options)
    try Self.check(tasks, threadCores, restore)
    let ownLevel = levels.tool
    try restore.concede(tasks, threadCores, nested: tree.tasks.contains { $0.pids.count - 1 > ownLevel })

    var sizes: [Int] = []
    func slot(_ size: Int) -> Int {
      sizes.append(size)
      return sizes.count - 1
    }
    // Who lives on comes first: the others learn from them that the tracer is gone (ExecutorArea), not the other way round.
    var leaders = [Int](repeating: 0, count: tasks.count)
    for (i, task) in tasks.enumerated() where !task.isZombie { leaders[i] = slot(Self.leaderSlotSize) }
    threadSlots = threadCores.map { cores in cores.dropFirst().map { _ in slot(Self.smallSlotSize) } }
    for (i, task) in tasks.enumerated() where task.isZombie { leaders[i] = slot(Self.smallSlotSize) }
    leaderSlot = leaders
    helperSlot = schedule.helpers.map { _ in slot(Self.smallSlotSize) }
    slotSizes = sizes

    let areaSize = UInt64(ExecutorArea.size(slots: sizes))
    areaAddress = try Self.gap(of: areaSize + UInt64(2 * pageSize) + 2 * Self.detourSize, in: tasks)
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
      let tree = try RecordedTree(try LoadedCheckpoint(options, images: images))
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

  private static func check(_ tasks: [RestoredTask], _ cores: [[CoreImage]], _ restore: RestoreContext) throws(Failure) {
    try RestoredNamespaces.check(tasks, restore)
    var memories: Set<UInt32> = []
    for (task, cores) in zip(tasks, cores) where !task.isZombie {
      guard memories.insert(task.ids.vmId).inserted else {
        throw Failure(
          "ids-\(task.pid).img: task \(task.pid) shares its memory with another process, which is not supported yet (clone-vm)")
      }
      try AddressSpace.check(task, restore)
      try DescriptorTable.check(task, restore)
      try FileSystemContext.check(task, restore)
      try task.checkVDSO(cores, restore)
      for vma in task.memory.vmas where vma.status & (1 << 8) != 0 {
        let end = vma.pgoff + (vma.end - vma.start)
        restore.sharedMemorySizes[vma.shmid] = max(restore.sharedMemorySizes[vma.shmid] ?? 0, end)
      }
    }
    try restore.checkUsers()
  }

  /// The number of a task's leader's slot.
  func slot(of task: RestoredTask) -> Int { leaderSlot[numbers[task.pid] ?? 0] }

  /// Whether a task's descriptor table is another task's too.
  func sharesFiles(_ index: Int) -> Bool { tree.tasks[index].shares.files != nil }
  func sharesFiles(_ task: RestoredTask) -> Bool { sharesFiles(numbers[task.pid] ?? 0) }
  /// Whether a task has its descriptors, or its root and working directory, in common with another.
  func shares(_ task: RestoredTask) -> Bool {
    let shares = tree.tasks[numbers[task.pid] ?? 0].shares
    return shares.files != nil || shares.fs != nil
  }

  /// The lowest address from which so many bytes are free in every task.
  private static func gap(of size: UInt64, in tasks: [RestoredTask]) throws(Failure) -> UInt64 {
    var ranges: [(UInt64, UInt64)] = []
    // Relatives have the same list (ImageReading.share).
    var seen: Set<UnsafePointer<VmaEntry>?> = []
    for task in tasks where seen.insert(task.memory.vmas.withUnsafeBufferPointer(\.baseAddress)).inserted {
      for vma in task.memory.vmas { ranges.append((vma.start, vma.end)) }
    }
    ranges.sort { $0.0 < $1.0 }
    // Far from where the kernel puts a new program's own stack and vDSO, and from low memory.
    var candidate: UInt64 = 0x2000_0000_0000
    for (start, end) in ranges where end > candidate {
      if start >= candidate + size { break }
      candidate = (end + 0xf_ffff) & ~0xf_ffff
    }
    guard candidate + size < 0x7000_0000_0000 else {
      throw Failure(
        "mm-\(tasks[0].pid).img and others: the tasks' memory leaves no common gap of \(size) bytes below 0x700000000000 for the executors")
    }
    return candidate
  }
}
