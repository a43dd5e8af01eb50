import CLinux
import Checkpoint
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

/// The tree while it is being made: stubs, the area that their executors share, and who has which slot.
/// If this process dies, every stub ends by itself.
final class Construction {
  let plan: Plan
  let restore: RestoreContext
  let area: ExecutorArea
  private let deadManSwitch: DeadManSwitch
  private let areaMemory: Descriptor
  /// Descriptors of this process that every stub inherits.
  private var inherited: [Int32] = []

  /// This process's child: the root, or whom the root hangs below. Once it exists.
  var topPID: Int32 = 0
  /// PIDs in this process's namespace of the helpers that exist.
  var helperPIDs: [HelperID: Int32] = [:]
  /// TIDs of the threads of each task, in this process's namespace.
  var threadTIDs: [[Int32]] = []
  /// This process makes no others any more.
  var areAllBorn = false
  /// How often a PID was tried again.
  var pidRetries = 0
  /// Where a fresh stub has its vDSO and the vDSO's data.
  var stubVDSO: [Range<UInt64>] = []
  /// How many programs of sequences that are being composed have been started, by the address of the slot.
  private var begun: [UInt64: Int] = [:]
  /// Stubs that exist and are to live on.
  private var living: Set<Int32> = []
  /// The task whose memory others were born with, and which is awake for them.
  var donor: RestoredTask?
  /// What the images say of tasks that have rested.
  private let images: TaskImages

  init(_ plan: Plan) throws(Failure) {
    self.plan = plan
    restore = plan.restore
    images = TaskImages(plan.restore)
    DescriptorRoom.raiseLimit()
    let memory = try about("making the executors' area") { () throws(Errno) in
      let memory = try memfdCreate("swift-restore-area")
      try syscall(__NR_ftruncate, Int(memory.rawValue), ExecutorArea.size(slots: plan.slotSizes))
      return memory
    }
    let dms = try about("preparing the dead man's switch") { () throws(Errno) in try DeadManSwitch() }
    area = try about("mapping the executors' area") { () throws(Errno) in
      try ExecutorArea(
        memory: memory.rawValue, address: plan.areaAddress, slots: plan.slotSizes, deadManSwitch: dms)
    }
    area.watch(each: true)
    areaMemory = memory
    deadManSwitch = dms
    try openServices()
  }

  deinit { closeServices() }

  /// Service descriptors lie above every number that the tree uses.
  private func openServices() throws(Failure) {
    var service = ServiceDescriptors()
    service.first = max(Int32(plan.highestDescriptor) + 1, 3)
    try about("opening the service descriptors", advice: "Raise the limit on open files (ulimit -n).") {
      () throws(Errno) in
      func inherit(_ fd: Int32) throws(Errno) -> Int32 {
        let copy = Int32(try syscall(__NR_fcntl, Int(fd), 0 /* F_DUPFD */, Int(service.first)))
        inherited.append(copy)
        return copy
      }
      let own = try pidfdOpen(getpid())
      service.tracer = try inherit(own.rawValue)
      service.images = try inherit(restore.directory.descriptor.rawValue)
      service.area = try inherit(areaMemory.rawValue)
      if restore.options.pidMethod == .nsLastPID {
        let file = try Descriptor.open("/proc/sys/kernel/ns_last_pid", O_WRONLY)
        service.lastPID = try inherit(file.rawValue)
      }
      // Numbers that are taken already, so that nothing else comes there: each sharer of a table has its own. Not far above
      // the others, or every task would have a table that large.
      let common = try inherit(own.rawValue)
      for (i, task) in plan.tasks.enumerated() {
        task.scratchDescriptor = plan.sharesFiles(i) ? try inherit(own.rawValue) : common
      }
    }
    restore.service = service
  }

  private func closeServices() {
    for fd in inherited { _ = cl_syscall(Int(__NR_close), Int(fd), 0, 0, 0, 0, 0) }
    inherited = []
  }

  // MARK: Who is where

  func slot(of actor: ForkSchedule.Actor) -> Slot? {
    switch actor {
    case .tool: nil
    case .task(let id): area.slots[plan.leaderSlot[id.index]]
    case .helper(let id): area.slots[plan.helperSlot[id.index]]
    }
  }

  func name(_ actor: ForkSchedule.Actor) -> String {
    switch actor {
    case .tool: "swift-restore"
    case .task(let id): plan.tasks[id.index].description
    case .helper(let id): "helper \(id.index)"
    }
  }

  /// Whoever exists and is to live on; the PID is noted with it.
  func nowLives(_ pid: Int32, _ actor: ForkSchedule.Actor) {
    living.insert(pid)
    switch actor {
    case .task(let id): plan.tasks[id.index].tracerPID = pid
    case .helper(let id): helperPIDs[id] = pid
    case .tool: break
    }
  }

  /// The PID in this process's namespace of who exists.
  func tracerPID(of actor: ForkSchedule.Actor) -> Int32? {
    switch actor {
    case .tool: nil
    case .task(let id): plan.tasks[id.index].tracerPID > 0 ? plan.tasks[id.index].tracerPID : nil
    case .helper(let id): helperPIDs[id]
    }
  }

  /// Who has a PID in this process's namespace.
  func actor(_ pid: Int32) -> ForkSchedule.Actor? {
    if pid <= 0 { return nil }
    if let task = plan.tasks.first(where: { $0.tracerPID == pid }) { return .task(TaskID(Int(task.index))) }
    return helperPIDs.first { $0.value == pid }.map { .helper($0.key) }
  }

  /// What a task that rests has forgotten is read again. For this thread.
  func wake(_ task: RestoredTask, _ parts: RestoredTask.Parts = .belongings) throws(Failure) { try plan.wake(task, parts, images) }

  /// Throws if a stub that is to live has died.
  func checkLiving() throws(Failure) {
    let buffer = ReadBuffer()
    for pid in living {
      var state: UInt8?
      if let directory = try? ProcDirectory(pid: pid), let text = try? directory.read("stat", buffer) {
        state = ProcStat(text)?.state
      }
      if state == nil || state == UInt8(ascii: "Z") || state == UInt8(ascii: "X") {
        throw Failure(
          "\(actor(pid).map(name) ?? "a task") died while it was being restored (PID \(pid))",
          advice: "Was it killed, or is memory short?")
      }
    }
  }

  // MARK: Running programs

  /// The programs of one slot, and whose they are.
  typealias Work = (name: String, sequence: ProgramSequence)

  /// A sequence for a parked executor: it runs what is complete while the rest is still being composed. For ``run(_:_:)``.
  func sequence(in slot: Slot) -> ProgramSequence {
    begun[slot.address] = 0
    return ProgramSequence(slot) { [unowned self] programs, complete in
      let started = begun[slot.address] ?? 0
      // One that failed is the last; what comes of it is found out when all wait for it.
      if started > 0 { guard slot.isParked, slot.stop(of: programs[started - 1]) == nil else { return false } }
      if started == complete { return true }
      start(programs[started], in: slot)
      begun[slot.address] = started + 1
      return false
    }
  }

  func start(_ program: SyscallProgram, in slot: Slot) {
    slot.load(program)
    area.start(slot)
  }

  /// Runs one sequence after the other in each slot, many slots at the same time.
  func run(_ work: [Work]) throws(Failure) { try run(work) { (work) throws(Failure) -> Work in work } }

  /// Composes programs for each item and runs them, many slots at the same time: enough to keep every core busy, and not so
  /// many that their programs fill this process's memory. A program runs as soon as it is composed.
  func run<Item>(_ items: [Item], _ compose: (Item) throws(Failure) -> Work) throws(Failure) {
    var next = 0
    while next < items.count {
      var running: [(work: Work, round: Int)] = []
      let end = min(next + Self.mostAtOnce, items.count)
      var programs = 0
      while next < end, programs < Self.mostPrograms {
        let work = try compose(items[next])
        next += 1
        let started = begun.removeValue(forKey: work.sequence.slot.address) ?? 0
        programs += work.sequence.number - started
        if started == 0 {
          let program = work.sequence.programs[0]
          if program.isEmpty { continue }
          self.start(program, in: work.sequence.slot)
        }
        running.append((work, max(started - 1, 0)))
      }
      while !running.isEmpty {
        try area.waitAll { () throws(Failure) in try checkLiving() }
        for (work, round) in running { try work.sequence.slot.check(work.sequence.programs[round], task: work.name) }
        running = running.compactMap { work, round in
          round + 1 < work.sequence.number ? (work, round + 1) : nil
        }
        for (work, round) in running { self.start(work.sequence.programs[round], in: work.sequence.slot) }
      }
      area.forgetSome()
    }
  }

  /// How many slots run at the same time, and about how many programs are held for that.
  private static let mostAtOnce = 32
  static let mostPrograms = 96

  /// Ends everything that was made, and waits until it is gone; nothing of the tree has run.
  func destroy() {
    // Not all that were born are known by now: a program may have stopped after its first clone.
    area.dismiss()
    var left = living
    if topPID != 0 { left.insert(topPID) }
    for pid in left { kill(pid, SIGKILL) }
    // A leader's end is told when its threads' is, and those that are traced wait to be waited for too. Whoever is not ours is
    // waited for by its parent, or by init.
    let end = nanoseconds() + 2_000_000_000
    while !left.isEmpty, nanoseconds() < end {
      while cl_syscall(Int(__NR_wait4), -1, 0, 0x4000_0001 /* __WALL | WNOHANG */, 0, 0, 0) > 0 {}
      left = left.filter { kill($0, 0) == 0 && !Self.hasEnded($0) }
      if !left.isEmpty { usleep(500) }
    }
    // Who has ended since the last look.
    while cl_syscall(Int(__NR_wait4), -1, 0, 0x4000_0001, 0, 0, 0) > 0 {}
  }

  private static func hasEnded(_ pid: Int32) -> Bool {
    let buffer = ReadBuffer()
    guard let directory = try? ProcDirectory(pid: pid), let text = try? directory.read("stat", buffer) else { return true }
    return ProcStat(text)?.state == UInt8(ascii: "Z")
  }
}
