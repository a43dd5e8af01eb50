import CLinux
import Checkpoint
import Glibc
import Linux
import Resources
import SystemPackage
import Tracee

/// Collects what only the tasks themselves can tell, and has them write their memory. The programs of many tasks are in flight at
/// the same time.
struct Collector {
  let dump: DumpContext
  /// The descriptor tables that several processes have; known with the first tasks.
  var sharedTables: Set<UInt32> = []
  private var seccomp = SeccompFilters()
  let deadManSwitch: DeadManSwitch

  init(_ dump: DumpContext, _ deadManSwitch: DeadManSwitch) {
    self.dump = dump
    self.deadManSwitch = deadManSwitch
  }

  var seccompImage: SeccompEntry { seccomp.image }

  /// Records the state of all tasks. The companion does a part for a task with many threads.
  mutating func collect(_ tasks: [DumpedTask], _ companion: Companion) throws(Failure) {
    // Each of these lets all tasks run before it waits for the first.
    for task in tasks { try task.process?.beginOpen(calls: task.unknownFlags, copy: dump.options.snapshot) }
    for task in tasks { try task.process?.advanceOpen() }
    var questions: [Questions?] = []
    for task in tasks { questions.append(try ask(task, companion)) }
    for (task, questions) in zip(tasks, questions) { try take(task, questions, companion) }
  }

  // MARK: From outside

  private mutating func collectFromOutside(_ task: DumpedTask) throws(Failure) {
    for thread in task.threads {
      var core = CoreEntry()
      core.mtype = .x86_64
      core.threadInfo = try CPUState.record(thread.traced)
      core.threadCore = ThreadCoreEntry()
      core.threadCore?.blkSigset = thread.traced.signalMask
      core.threadCore?.signalsP = try PendingSignals.record(thread.traced, shared: false)
      core.threadCore?.rseqEntry = try RestartableSequences.record(thread.traced)
      if thread.isLeader {
        core.tc = TaskCoreEntry()
        core.tc?.blkSigset = thread.traced.signalMask
        core.tc?.signalsS = try PendingSignals.record(thread.traced, shared: true)
      }
      try seccomp.record(thread, into: &core)
      thread.core = core
    }
  }

  // MARK: From inside

  /// What is asked of each thread of a task, until the answers are there.
  private struct Questions {
    var states: [[any TaskState]]
    var programs: [SyscallProgram]

    /// Loads a program for each thread into its slot.
    init(_ threads: [DumpedThread], _ slots: [Slot]) throws(Failure) {
      states = []
      programs = []
      states.reserveCapacity(threads.count)
      programs.reserveCapacity(threads.count)
      for (thread, slot) in zip(threads, slots) {
        var program = SyscallProgram(for: slot)
        var list: [any TaskState] = []
        if thread.isLeader {
          for kind in processStates { list.append(try kind.init(asking: &program, in: thread)) }
        }
        for kind in threadStates { list.append(try kind.init(asking: &program, in: thread)) }
        slot.load(program)
        states.append(list)
        programs.append(program)
      }
    }

    func takeAnswers(_ range: Range<Int>, of task: DumpedTask, _ slots: [Slot]) throws(Failure) {
      for i in range {
        let thread = task.threads[i]
        try slots[i].check(programs[i], task: "\(task.description), thread \(thread.traced.tid)")
        for state in states[i] { try state.record(from: slots[i], of: thread, into: &thread.core) }
      }
    }
  }

  private mutating func ask(_ task: DumpedTask, _ companion: Companion) throws(Failure) -> Questions? {
    guard let process = task.process else { return nil }
    try process.finishOpen(deadManSwitch)
    guard let area = process.area else { return nil }
    let questions: Questions
    if task.hasManyThreads {
      var composed: Questions?
      try companion.share(
        { () throws(Failure) in try collectFromOutside(task) },
        { () throws(Failure) in composed = try Questions(task.threads, area.slots) })
      guard let composed else { return nil }
      questions = composed
    } else {
      try collectFromOutside(task)
      questions = try Questions(task.threads, area.slots)
    }
    try process.enterAll()
    return questions
  }

  private mutating func take(_ task: DumpedTask, _ questions: Questions?, _ companion: Companion) throws(Failure) {
    guard let process = task.process, let area = process.area, let questions else { return }
    try process.waitAll()
    let slots = area.slots
    let all = task.threads.indices
    if task.hasManyThreads {
      try companion.share(
        { () throws(Failure) in try questions.takeAnswers(all.prefix(all.count / 2), of: task, slots) },
        { () throws(Failure) in try questions.takeAnswers(all.dropFirst(all.count / 2), of: task, slots) })
    } else {
      try questions.takeAnswers(all, of: task, slots)
    }
    let leader = task.threads[0]
    leader.core.tc?.taskState = leader.traced.groupStop == nil ? 1 : 3
    if let signal = leader.traced.groupStop { leader.core.tc?.stopSigno = UInt32(signal) }
    leader.core.tc?.flags = task.stat.flags
    leader.core.tc?.exitSignal = UInt32(bitPattern: task.stat.exitSignal)
    leader.core.tc?.oomScoreAdj = try OOMScore.record(task)
  }

  // MARK: Memory

  /// The writing of memory by the tasks themselves.
  func transfers(_ memory: [MemoryScan.Found]) throws(Failure) -> [MemoryTransfer] {
    var transfers: [MemoryTransfer] = []
    for part in memory {
      let file = try dump.createPages(part.id)
      guard !part.pages.ranges.isEmpty, let process = part.task.process else { continue }
      transfers.append(
        MemoryTransfer(
          part.task, process, part.pages, to: file, sharesTable: sharedTables.contains(part.task.ids.filesId)))
    }
    return transfers
  }
}

extension DumpContext {
  /// A new image for pages.
  func createPages(_ id: UInt32) throws(Failure) -> Descriptor {
    Descriptor(try asFailure { () throws(ImageError) in try directory.create(.pages(id)).rawValue })
  }
}
