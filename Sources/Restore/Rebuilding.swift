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
    for (i, task) in construction.plan.tasks.enumerated() where !task.isZombie { makeThreads(task, i) }
  }

  private func makeThreads(_ task: RestoredTask, _ index: Int) {
    let entry = plan.tree.tasks[index]
    let numbers = ([entry.pids] + entry.threads).map { UInt32(bitPattern: $0.last?.rawValue ?? 0) }
    let tracerTIDs = [task.tracerPID] + construction.threadTIDs[index]
    let slots = [plan.leaderSlot[index]] + plan.threadSlots[index]
    task.threads = numbers.indices.map { i in
      let thread = RestoredThread(
        core: plan.threadCores[index][i], isLeader: i == 0, pid: numbers[0], tid: numbers[i],
        slot: construction.area.slots[slots[i]])
      thread.tracerTID = tracerTIDs[i]
      thread.task = task
      return thread
    }
  }

  func run() throws(Failure) {
    try construction.giveMemory(living.filter { !$0.hasMemory })
    try stage { task, sequence throws(Failure) in
      AddressSpace.finish(task, &sequence)
      try AddressSpace.restoreFields(task, restore, &sequence)
    }
    var tables: Set<UInt32> = []
    let owners = Set(living.filter { tables.insert($0.ids.filesId).inserted }.map(\.pid))
    try stage { task, sequence throws(Failure) in
      try FileSystemContext.restore(task, restore, &sequence)
      if owners.contains(task.pid) { try DescriptorTable.restore(task, restore, &sequence) }
    }
    try stage { task, sequence throws(Failure) in
      if owners.contains(task.pid) { try DescriptorTable.complete(task, restore, &sequence) }
    }
    for kind in fileKinds { try kind.finish(restore) }
    try RestoredNamespaces.finish(restore)
    let inheritedScore = OOMScore.own
    for task in living { try OOMScore.restore(task, inherited: inheritedScore, restore) }
    try attachToFiltered()
    try restoreStates()
    // A change of any thread's credentials resets the flag of the process.
    try stage { task, sequence throws(Failure) in
      AddressSpace.restore(task.threads[0], &sequence.current)
      sequence.current.call(
        __NR_close_range, Argument(restore.service.first), Argument(UInt32.max), 0,
        for: "closing the service descriptors")
    }
    for task in living { for thread in task.threads { restore.warnings += thread.warnings } }
  }

  /// One program or more in the leader of every process.
  private func stage(_ body: (RestoredTask, inout ProgramSequence) throws(Failure) -> Void) throws(Failure) {
    var work: [(name: String, sequence: ProgramSequence)] = []
    for task in living {
      var sequence = ProgramSequence(task.threads[0].slot)
      try body(task, &sequence)
      work.append((task.description, sequence))
    }
    try construction.run(work)
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
    var work: [(name: String, sequence: ProgramSequence)] = []
    for (index, task) in plan.tasks.enumerated() where !task.isZombie {
      for thread in task.threads {
        var sequence = ProgramSequence(thread.slot)
        if thread.isLeader { takeDeaths(of: index, &sequence.current) }
        try SeccompFilters.restore(thread, restore.seccomp, &sequence.current)
        if thread.isLeader {
          for kind in processStates { try kind.restore(thread, &sequence.current) }
        }
        for kind in threadStates { try kind.restore(thread, &sequence.current) }
        try PendingSignals.restore(thread, &sequence.current)
        work.append(
          (thread.isLeader ? task.description : "\(task.description), thread \(thread.tid)", sequence))
      }
    }
    try construction.run(work)
  }

  /// The ends of helpers and zombies have left signals that the program never got: they are taken off, when all zombies are.
  private func takeDeaths(of index: Int, _ program: inout SyscallProgram) {
    for child in plan.tree.tasks where child.parent?.index == index && child.isZombie {
      program.call(
        __NR_waitid, 1 /* P_PID */, Argument(child.pids.last?.rawValue ?? 0), 0,
        0x4100_0004 /* WEXITED | WNOWAIT | __WALL */, 0,
        for: "waiting for the end of zombie", UInt64(child.pids.last?.rawValue ?? 0))
    }
    let all = program.place(UInt64.max)
    let now = program.place((UInt64(0), UInt64(0)))
    for _ in 0..<3 { program.call(__NR_rt_sigtimedwait, Argument(all), 0, Argument(now), 8, mayFail: true) }
  }
}
