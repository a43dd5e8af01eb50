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
  let schedule: ForkSchedule
  let tasks: [RestoredTask]
  let threadCores: [[CoreEntry]]
  /// From a PID to its place among the tasks.
  private let numbers: [UInt32: Int]
  /// The area's address and the page after it, both free in the layout of every task.
  let areaAddress: UInt64
  let slotSizes: [Int]
  let stubAddress: UInt64
  /// Room for a vDSO on its way.
  let detourAddress: UInt64

  /// Which slot of the area is whose.
  let leaderSlot: [Int]
  let threadSlots: [[Int]]
  let helperSlot: [Int]

  private static let leaderSlotSize = 16 * pageSize
  private static let smallSlotSize = 2 * pageSize
  private static let detourSize = 16 * UInt64(pageSize)

  /// Reads the images and plans their restore. Nothing is changed.
  public init(_ options: RestoreOptions, images: String) throws(Failure) {
    let checkpoint = try LoadedCheckpoint(options, images: images)
    restore = checkpoint.restore
    tasks = checkpoint.tasks
    threadCores = checkpoint.threadCores
    numbers = Dictionary(uniqueKeysWithValues: tasks.enumerated().map { ($1.pid, $0) })
    tree = try Self.recordedTree(checkpoint)
    schedule = try Self.schedule(tree, options)
    try Self.check(tasks, restore)

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
    areaAddress = try Self.gap(of: areaSize + UInt64(2 * pageSize) + Self.detourSize, in: tasks)
    stubAddress = areaAddress + areaSize + UInt64(pageSize)
    detourAddress = stubAddress + UInt64(pageSize)
  }

  /// The steps that make the tree of the images again, whatever else in them cannot be restored.
  public static func schedule(_ options: RestoreOptions, images: String) throws(Failure) -> ForkSchedule {
    try schedule(try recordedTree(try LoadedCheckpoint(options, images: images)), options)
  }

  private static func schedule(_ tree: RecordedTree, _ options: RestoreOptions) throws(Failure)
    -> ForkSchedule
  {
    do throws(ScheduleError) {
      return try ForkSchedule.compute(tree, options: ForkSchedule.Options(shellJob: options.shellJob))
    } catch {
      throw Failure("\(error)", advice: "")
    }
  }

  /// The tree as the schedule wants it, from pstree.img.
  private static func recordedTree(_ checkpoint: LoadedCheckpoint) throws(Failure) -> RecordedTree {
    var numbers: [UInt32: Int] = [:]
    for (i, entry) in checkpoint.tree.enumerated() {
      guard entry.pid > 0, entry.pid <= 1 << 22, numbers.updateValue(i, forKey: entry.pid) == nil else {
        throw Failure("pstree.img: entry \(i): PID \(entry.pid) is out of range, or there twice")
      }
    }
    let users = shareCounts(checkpoint.tasks)
    var tasks: [RecordedTask] = []
    let namespace = PIDNamespaceID(1)
    for (i, entry) in checkpoint.tree.enumerated() {
      let task = checkpoint.tasks[i]
      let parent = numbers[entry.ppid].map { TaskID($0) }
      guard i == 0 ? entry.ppid == 0 || parent == nil : parent != nil else {
        throw Failure(
          "pstree.img: entry \(i): the parent \(entry.ppid) of task \(entry.pid) is not in the tree")
      }
      var state = RecordedTask.State.alive
      if task.isZombie {
        state = .zombie(WaitStatus(rawValue: Int32(bitPattern: task.core.tc?.exitCode ?? 0)))
      }
      if task.isStopped { state = .stopped(SignalNumber(Int32(task.core.tc?.stopSigno ?? UInt32(SIGSTOP)))) }
      func shared(_ id: UInt32, _ users: [UInt32: Int]) -> ShareGroupID? {
        !task.isZombie && users[id] ?? 0 > 1 ? ShareGroupID(id) : nil
      }
      tasks.append(
        RecordedTask(
          id: TaskID(i), pids: [PID(Int32(entry.pid))], parent: parent,
          group: [PID(Int32(bitPattern: entry.pgid))],
          session: [PID(Int32(bitPattern: entry.sid))],
          threads: entry.threads.filter { $0 != entry.pid }.map { [PID(Int32(bitPattern: $0))] },
          state: state,
          exitSignal: SignalNumber(
            Int32(bitPattern: entry.exitSignal ?? task.core.tc?.exitSignal ?? UInt32(SIGCHLD))),
          pidNamespace: namespace, isChildSubreaper: task.core.tc?.childSubreaper ?? false,
          shares: RecordedTask.Shares(
            files: shared(task.ids.filesId, users.files), fs: shared(task.ids.fsId, users.fs),
            sighand: shared(task.ids.sighandId, users.sighand), mm: shared(task.ids.vmId, users.vm))))
    }
    return RecordedTree(tasks: tasks, namespaces: [RecordedNamespace(id: namespace, parent: nil, level: 0)])
  }

  private static func shareCounts(_ tasks: [RestoredTask]) -> (
    files: [UInt32: Int], fs: [UInt32: Int], sighand: [UInt32: Int], vm: [UInt32: Int]
  ) {
    var counts: (files: [UInt32: Int], fs: [UInt32: Int], sighand: [UInt32: Int], vm: [UInt32: Int]) = (
      [:], [:], [:], [:]
    )
    for task in tasks where !task.isZombie {
      counts.files[task.ids.filesId, default: 0] += 1
      counts.fs[task.ids.fsId, default: 0] += 1
      counts.sighand[task.ids.sighandId, default: 0] += 1
      counts.vm[task.ids.vmId, default: 0] += 1
    }
    return counts
  }

  private static func check(_ tasks: [RestoredTask], _ restore: RestoreContext) throws(Failure) {
    try RestoredNamespaces.check(tasks, restore)
    var memories: Set<UInt32> = []
    for task in tasks where !task.isZombie {
      guard memories.insert(task.ids.vmId).inserted else {
        throw Failure(
          "task \(task.pid) shares its memory with another process, which is not supported yet (clone-vm)")
      }
      try AddressSpace.check(task, restore)
      try DescriptorTable.check(task, restore)
      try FileSystemContext.check(task, restore)
      try checkVDSO(task)
      for vma in task.memory.vmas where vma.status & (1 << 8) != 0 {
        let end = vma.pgoff + (vma.end - vma.start)
        restore.sharedMemorySizes[vma.shmid] = max(restore.sharedMemorySizes[vma.shmid] ?? 0, end)
      }
    }
  }

  /// The task calls into the vDSO at the recorded addresses: this kernel's must be the same code.
  private static func checkVDSO(_ task: RestoredTask) throws(Failure) {
    guard let own = VDSO.image, let recorded = task.vdso.vdso else { return }
    guard recorded.upperBound - recorded.lowerBound == UInt64(own.count) else {
      throw Failure(
        "task \(task.pid): the vDSO has \(recorded.upperBound - recorded.lowerBound) bytes, this kernel's has \(own.count): images of another kernel (vdso-patch)",
        advice: "Restore on the kernel that the tree was dumped on.")
    }
  }

  /// The number of a task's leader's slot.
  func slot(of task: RestoredTask) -> Int { leaderSlot[numbers[task.pid] ?? 0] }

  /// Whether a task's descriptor table is another task's too.
  func sharesFiles(_ index: Int) -> Bool { tree.tasks[index].shares.files != nil }

  /// The lowest address from which so many bytes are free in every task.
  private static func gap(of size: UInt64, in tasks: [RestoredTask]) throws(Failure) -> UInt64 {
    var ranges: [(UInt64, UInt64)] = []
    for task in tasks { for vma in task.memory.vmas { ranges.append((vma.start, vma.end)) } }
    ranges.sort { $0.0 < $1.0 }
    // Far from where the kernel puts a new program's own stack and vDSO, and from low memory.
    var candidate: UInt64 = 0x2000_0000_0000
    for (start, end) in ranges where end > candidate {
      if start >= candidate + size { break }
      candidate = (end + 0xf_ffff) & ~0xf_ffff
    }
    guard candidate + size < 0x7000_0000_0000 else {
      throw Failure(
        "the tasks' memory leaves no common gap of \(size) bytes below 0x700000000000 for the executors")
    }
    return candidate
  }
}
