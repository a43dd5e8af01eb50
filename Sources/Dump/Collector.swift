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
  private let pagesAhead: PagesAhead?

  init(_ dump: DumpContext, _ deadManSwitch: DeadManSwitch, _ pagesAhead: PagesAhead?) {
    self.dump = dump
    self.deadManSwitch = deadManSwitch
    self.pagesAhead = pagesAhead
  }

  var seccompImage: SeccompEntry { seccomp.image }

  /// Records the state of all tasks. `write` is given each thread of a process with many that can be written and forgotten. What asks
  /// for no tracer the companion does too, if it has time.
  mutating func collect(_ tasks: [DumpedTask], _ companion: Companion, _ write: @escaping WriteThread) throws(Failure) {
    let inquiries = tasks.compactMap { Inquiry($0, deadManSwitch) }
    // Each of these lets all tasks run before it waits for the first.
    for inquiry in inquiries { try inquiry.process.beginOpen(calls: inquiry.task.descriptors.count, copy: dump.options.snapshot) }
    for inquiry in inquiries { try inquiry.process.advanceOpen() }
    for inquiry in inquiries { try inquiry.process.awaitOpen() }
    try companion.shareEach(of: inquiries) { (inquiry) throws(Failure) in try inquiry.compose() }
    for inquiry in inquiries {
      inquiry.process.watch()
      let task = inquiry.task
      if task.hasManyThreads {
        try collectCrowd(task, inquiry.process, companion, write)
      } else {
        try collectFromOutside(task.threads[...])
        try inquiry.process.enter(task.threads.indices)
      }
    }
    try companion.shareEach(of: inquiries) { (inquiry) throws(Failure) in try inquiry.conclude() }
  }

  /// What is asked of one task in the course of this.
  private final class Inquiry {
    let task: DumpedTask
    let process: TracedProcess
    private let deadManSwitch: DeadManSwitch
    private var questions: Questions?

    init?(_ task: DumpedTask, _ deadManSwitch: DeadManSwitch) {
      guard let process = task.process else { return nil }
      self.task = task
      self.process = process
      self.deadManSwitch = deadManSwitch
    }

    func compose() throws(Failure) {
      try process.share(deadManSwitch)
      guard !task.hasManyThreads, let area = process.area else { return }
      questions = try Questions(task.threads[...], area.slots[...])
    }

    func conclude() throws(Failure) {
      if let questions {
        try process.waitAll()
        try questions.takeAnswers(of: task)
      }
      let leader = task.threads[0]
      leader.core.tc?.taskState = leader.traced.groupStop == nil ? 1 : 3
      if let signal = leader.traced.groupStop { leader.core.tc?.stopSigno = UInt32(signal) }
      leader.core.tc?.flags = task.stat.flags
      leader.core.tc?.exitSignal = UInt32(bitPattern: task.stat.exitSignal)
      leader.core.tc?.oomScoreAdj = try OOMScore.record(task)
    }
  }

  typealias WriteThread = (DumpedTask, DumpedThread, inout ImageBuffer) throws(Failure) -> Void

  /// So many threads of a process with many are asked at a time.
  private static let portion = 128

  /// While the tracer asks some threads of a process, the companion composes the questions to those behind; both write those before.
  /// What is known of them never has to be held at once.
  private mutating func collectCrowd(
    _ task: DumpedTask, _ process: TracedProcess, _ companion: Companion, _ write: @escaping WriteThread
  ) throws(Failure) {
    guard let slots = process.area?.slots else { return }
    let all = task.threads.indices
    func range(_ start: Int) -> Range<Int> { (start..<start + Self.portion).clamped(to: all) }
    var next: Questions? = try Questions(task.threads[range(0)], slots[range(0)])
    var answered: Answers?
    for start in stride(from: 0, to: all.count, by: Self.portion) {
      let (current, before) = (next, answered)
      try companion.share(
        { () throws(Failure) in
          try collectFromOutside(task.threads[range(start)])
          try process.enter(range(start))
          try before?.take()
          try process.waitAll()
        },
        { () throws(Failure) in
          let behind = range(start + Self.portion)
          next = try Questions(task.threads[behind], slots[behind])
          try before?.take()
        })
      answered = current.map { Answers($0, task, write) }
      process.area?.forgetSome()
    }
    try companion.share({ () throws(Failure) in try answered?.take() }, { () throws(Failure) in try answered?.take() })
  }

  /// Threads of a process with many that have answered: whoever has time takes what one says, writes and forgets it.
  private final class Answers {
    private let questions: Questions
    private let task: DumpedTask
    private let write: WriteThread
    private let turns: Turns

    init(_ questions: Questions, _ task: DumpedTask, _ write: @escaping WriteThread) {
      self.questions = questions
      self.task = task
      self.write = write
      turns = Turns(questions.threads.count)
    }

    /// Takes those that nobody has begun with.
    func take() throws(Failure) {
      var buffer = ImageBuffer()
      while let turn = turns.next() {
        try questions.takeAnswer(turn, of: task)
        let thread = questions.threads[questions.threads.startIndex + turn]
        if thread.isLeader { continue }
        try write(task, thread, &buffer)
        thread.core = CoreEntry()
      }
    }
  }

  // MARK: From outside

  private mutating func collectFromOutside(_ threads: ArraySlice<DumpedThread>) throws(Failure) {
    for thread in threads {
      var core = CoreEntry()
      core.mtype = .x86_64
      core.threadInfo = try CPUState.record(thread.traced)
      core.threadCore = ThreadCoreEntry()
      core.threadCore?.blkSigset = thread.traced.signalMask
      core.threadCore?.signalsP = try PendingSignals.record(thread.traced, thread.noted, shared: false)
      core.threadCore?.rseqEntry = try RestartableSequences.record(thread.traced, thread.noted)
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

  /// What is asked of threads of a task, until the answers are there.
  private struct Questions {
    let threads: ArraySlice<DumpedThread>
    private let slots: ArraySlice<Slot>
    private var states: [[any TaskState]] = []
    private var programs: [SyscallProgram] = []

    /// Loads a program for each thread into its slot.
    init(_ threads: ArraySlice<DumpedThread>, _ slots: ArraySlice<Slot>) throws(Failure) {
      self.threads = threads
      self.slots = slots
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

    func takeAnswers(of task: DumpedTask) throws(Failure) {
      for i in 0..<threads.count { try takeAnswer(i, of: task) }
    }

    /// Takes what the `i`-th thread says.
    func takeAnswer(_ i: Int, of task: DumpedTask) throws(Failure) {
      let (thread, slot) = (threads[threads.startIndex + i], slots[slots.startIndex + i])
      try slot.check(programs[i], task: "\(task.description), thread \(thread.traced.tid)")
      for state in states[i] { try state.record(from: slot, of: thread, into: &thread.core) }
    }
  }

  // MARK: Memory

  /// The writing of memory by the tasks themselves.
  func transfers(_ memory: [MemoryScan.Found]) throws(Failure) -> [MemoryTransfer] {
    var transfers: [MemoryTransfer] = []
    for part in memory {
      var image = pagesAhead?.give(ImageFile.pages(part.id).fileName, part.pages)
      if image == nil { image = PagesImage(file: try dump.createPages(part.id), done: 0) }
      guard !part.pages.ranges.isEmpty, let process = part.task.process, let image = image.take() else { continue }
      transfers.append(
        MemoryTransfer(
          part.task, process, part.pages, to: image, sharesTable: sharedTables.contains(part.task.ids.filesId)))
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
