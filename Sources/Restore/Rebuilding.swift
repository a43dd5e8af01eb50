import CLinux
import Checkpoint
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

/// Gives the stubs what they had: memory, descriptors, and all the state that a task has of its own.
struct Rebuilding {
  let construction: Construction
  private var plan: Plan { construction.plan }
  private var restore: RestoreContext { construction.restore }
  private var living: [RestoredTask] { plan.tasks.filter { !$0.isZombie } }

  init(_ construction: Construction) {
    self.construction = construction
    for task in construction.plan.tasks where !task.forgotten.contains(.thread) && !task.isZombie { makeThreads(task) }
  }

  private func makeThreads(_ task: RestoredTask) {
    let index = Int(task.index)
    let entry = plan.tree.tasks[index]
    let numbers = ([entry.pids] + entry.threads).map { UInt32(bitPattern: $0.last?.rawValue ?? 0) }
    let tracerTIDs = [task.tracerPID] + construction.threadTIDs[index]
    let slots = [plan.leaderSlot[index]] + plan.threadSlots[index]
    let cores = [task.image] + plan.threadCores[index]
    task.threads = numbers.indices.map { i in
      let thread = RestoredThread(
        core: cores[i], isLeader: i == 0, pid: numbers[0], tid: numbers[i],
        slot: construction.area.slots[slots[i]])
      thread.tracerTID = tracerTIDs[i]
      thread.task = task
      return thread
    }
  }

  /// It is a task's turn: what it forgot while it rested is known again.
  private func wake(_ task: RestoredTask, _ parts: RestoredTask.Parts = .belongings) throws(Failure) {
    try construction.wake(task, parts)
    if task.threads.isEmpty { makeThreads(task) }
  }

  /// Until its next turn.
  private func rest(_ task: RestoredTask) {
    if !plan.rests { return }
    for thread in task.threads {
      restore.warnings += thread.warnings
      thread.warnings = []
    }
    task.rest()
  }

  func run() throws(Failure) {
    let living = living
    let (early, late) = (living.filter { $0.hasMemory && !$0.isEquipped }, living.filter { !$0.hasMemory })
    try construction.giveMemory(late) { (task, sequence) throws(Failure) in try construction.equip(task, &sequence) }
    try stage(early) { (task, sequence) throws(Failure) in try construction.equip(task, &sequence) }
    var tables: Set<UInt32> = []
    let owners = living.filter { tables.insert($0.ids.filesId).inserted }
    try stage(owners.filter { plan.sharesFiles($0) }) { (task, sequence) throws(Failure) in
      try DescriptorTable.restore(task, restore, &sequence)
    }
    try stage(owners) { (task, sequence) throws(Failure) in
      try DescriptorTable.complete(task, restore, &sequence)
    }
    for kind in fileKinds { try kind.finish(restore) }
    try RestoredNamespaces.finish(restore)
    let inheritedScore = OOMScore.own
    for task in living { try OOMScore.restore(task, inherited: inheritedScore, restore) }
    try attachToFiltered()
    try restoreStates()
    // A change of any thread's credentials resets the flag of the process.
    try stage(living.filter { $0.threads.count > 1 }) { task, sequence in finish(task, &sequence.current) }
    for task in living { for thread in task.threads { restore.warnings += thread.warnings } }
  }

  /// What comes when all threads of a task are done.
  private func finish(_ task: RestoredTask, _ program: inout SyscallProgram) {
    AddressSpace.restore(task.threads[0], &program)
    program.call(
      __NR_close_range, Argument(restore.service.first), Argument(UInt32.max), 0, for: "closing the service descriptors")
  }

  /// One program or more in the leader of every process.
  private func stage(
    _ tasks: [RestoredTask], _ body: (RestoredTask, inout ProgramSequence) throws(Failure) -> Void
  ) throws(Failure) {
    try construction.run(tasks) { (task) throws(Failure) -> Construction.Work in
      try wake(task)
      defer { rest(task) }
      var sequence = construction.sequence(in: task.threads[0].slot)
      try body(task, &sequence)
      return (task.description, sequence)
    }
  }

  /// Filters must not stop the rebuild: threads that are to have any are traced from here on, with their filters suspended.
  private func attachToFiltered() throws(Failure) {
    for task in living {
      for thread in task.threads where thread.core.threadCore?.seccompMode?.rawValue ?? 0 != 0 {
        try about(
          "\(task.description): suspending its seccomp filters: PTRACE_O_SUSPEND_SECCOMP",
          advice: "This needs CAP_SYS_ADMIN and a swift-restore that is not itself under seccomp."
        ) { () throws(Errno) in try Ptrace.seize(thread.tracerTID, [.exitKill, .traceSysGood, .suspendSeccomp]) }
        thread.isAttached = true
      }
    }
  }

  private func restoreStates() throws(Failure) {
    let stub = StubState(root: plan.tasks[0].tracerPID)
    if restore.privileges.makesUserNamespace { stub.takeIDs(of: restore.expectedStub) }
    let zombies = zombiesByParent()
    // One whose threads are not known has one.
    let places = living.flatMap { task in (0..<max(task.threads.count, 1)).map { (task: task, thread: $0) } }
    try construction.run(places) { (place) throws(Failure) -> Construction.Work in
      let task = place.task
      try wake(task, place.thread == 0 ? .all : .thread)
      defer { rest(task) }
      let thread = task.threads[place.thread]
      thread.stub = stub
      let index = Int(task.index)
      var sequence = ProgramSequence(thread.slot)
      if thread.isLeader { takeDeaths(zombies[index] ?? [], &sequence.current) }
      try SeccompFilters.restore(thread, restore.seccomp, &sequence.current)
      if thread.isLeader {
        for kind in processStates { try kind.restore(thread, &sequence.current) }
      }
      for kind in threadStates { try kind.restore(thread, &sequence.current) }
      try PendingSignals.restore(thread, &sequence)
      if task.threads.count == 1 {
        sequence.makeRoom(calls: 2)
        finish(task, &sequence.current)
      }
      return (thread.isLeader ? task.description : "\(task.description), thread \(thread.tid)", sequence)
    }
  }

  /// The zombies among each task's children, by the numbers that it knows them by: those of its own namespace.
  private func zombiesByParent() -> [Int: [Int32]] {
    var zombies: [Int: [Int32]] = [:]
    for child in plan.tree.tasks where child.isZombie {
      guard let parent = child.parent else { continue }
      let level = plan.tree[parent].pids.count - 1
      zombies[parent.index, default: []].append(child.pids[level].rawValue)
    }
    return zombies
  }

  /// The ends of helpers and zombies have left signals that the program never got: they are taken off, when all zombies are.
  private func takeDeaths(_ zombies: [Int32], _ program: inout SyscallProgram) {
    for pid in zombies {
      program.call(
        __NR_waitid, 1 /* P_PID */, Argument(pid), 0, 0x4100_0004 /* WEXITED | WNOWAIT | __WALL */, 0,
        for: "waiting for the end of zombie", UInt64(pid))
    }
    let all = program.place(UInt64.max)
    let now = program.place((UInt64(0), UInt64(0)))
    for _ in 0..<3 { program.call(__NR_rt_sigtimedwait, Argument(all), 0, Argument(now), 8, mayFail: true) }
  }
}
