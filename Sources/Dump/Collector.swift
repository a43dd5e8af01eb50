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
    let inquiries = try tasks.filter { !$0.isZombie }.map { (task) throws(Failure) in try Inquiry(task, deadManSwitch) }
    // Each of these lets all tasks run before it waits for the first.
    for inquiry in inquiries { try inquiry.beginOpen(dump.options) }
    for inquiry in inquiries { try inquiry.process.advanceOpen() }
    for inquiry in inquiries { try inquiry.process.awaitOpen() }
    try companion.shareEach(of: inquiries) { (inquiry) throws(Failure) in try inquiry.compose() }
    for inquiry in inquiries {
      inquiry.process.watch()
      let task = inquiry.task
      if task.hasManyThreads {
        try collectCrowd(task, inquiry, companion, write)
      } else {
        for thread in task.threads { try collectFromOutside(thread) }
        try inquiry.process.enter(task.threads.indices)
      }
    }
    try companion.shareEach(of: inquiries) { (inquiry) throws(Failure) in try inquiry.conclude() }
  }

  /// What is asked of one task in the course of this.
  private final class Inquiry {
    let task: DumpedTask
    let process: TracedProcess
    /// Who of very many threads is asked, and who is like one of those.
    private(set) var asked: [(place: Int, model: ThreadModel?)] = []
    private(set) var others: [(place: Int, model: ThreadModel)] = []
    private let deadManSwitch: DeadManSwitch
    private var questions: Questions?

    init(_ task: DumpedTask, _ deadManSwitch: DeadManSwitch) throws(Failure) {
      self.task = task
      process = try task.openWay()
      self.deadManSwitch = deadManSwitch
      if task.hasManyThreads { (asked, others) = ThreadModel.divide(task.threads) }
    }

    func beginOpen(_ options: DumpOptions) throws(Failure) {
      try process.beginOpen(
        calls: task.descriptors.count, copy: options.snapshot, for: task.hasManyThreads ? asked.map(\.place) : nil)
    }

    func compose() throws(Failure) {
      try process.share(deadManSwitch)
      guard !task.hasManyThreads, let area = process.area else { return }
      questions = try Questions(task.threads, area.slots)
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
  /// What is known of them never has to be held at once. Those that have nothing of their own but what the kernel's list tells are not
  /// asked, and never leave the stop that they were found in.
  private mutating func collectCrowd(
    _ task: DumpedTask, _ inquiry: Inquiry, _ companion: Companion, _ write: @escaping WriteThread
  ) throws(Failure) {
    let (process, asked, others) = (inquiry.process, inquiry.asked, inquiry.others)
    guard let slots = process.area?.slots else { return }
    func questions(_ start: Int) throws(Failure) -> Questions {
      let part = (start..<start + Self.portion).clamped(to: asked.indices)
      return try Questions(asked[part].map { task.threads[$0.place] }, Array(slots[part]))
    }
    var next: Questions? = try questions(0)
    var before: Portion?
    for start in stride(from: 0, to: asked.count, by: Self.portion) {
      let (current, last) = (next, before)
      let part = (start..<start + Self.portion).clamped(to: asked.indices)
      try companion.share(
        { () throws(Failure) in
          for (place, _) in asked[part] { try collectFromOutside(task.threads[place]) }
          try process.enter(part)
          try last?.take()
          try process.waitAll()
        },
        { () throws(Failure) in
          next = try questions(start + Self.portion)
          try last?.take()
        })
      before = current.map { questions in
        Portion(questions.threads, task, write) { (i) throws(Failure) in
          try questions.takeAnswer(i, of: task)
          asked[part.lowerBound + i].model?.take(questions.threads[i].core)
        }
      }
      process.area?.forgetSome()
    }
    // Whom others are like has answered.
    try companion.share({ [before] () throws(Failure) in try before?.take() }, { [before] () throws(Failure) in try before?.take() })
    before = nil
    for start in stride(from: 0, to: others.count, by: Self.portion) {
      let last = before
      let part = others[(start..<start + Self.portion).clamped(to: others.indices)]
      try companion.share(
        { () throws(Failure) in
          for (place, _) in part { try collectFromOutside(task.threads[place]) }
          try last?.take()
        },
        { () throws(Failure) in try last?.take() })
      before = Portion(part.map { task.threads[$0.place] }, task, write) { (i) throws(Failure) in
        try part[part.startIndex + i].model.complete(task.threads[part[part.startIndex + i].place])
      }
    }
    try companion.share({ [before] () throws(Failure) in try before?.take() }, { [before] () throws(Failure) in try before?.take() })
  }

  /// Threads of a process with many of which everything can be known: whoever has time completes, writes and forgets one.
  private final class Portion {
    private let threads: [DumpedThread]
    private let task: DumpedTask
    private let write: WriteThread
    private let complete: (Int) throws(Failure) -> Void
    private let turns: Turns

    init(
      _ threads: [DumpedThread], _ task: DumpedTask, _ write: @escaping WriteThread,
      _ complete: @escaping (Int) throws(Failure) -> Void
    ) {
      self.threads = threads
      self.task = task
      self.write = write
      self.complete = complete
      turns = Turns(threads.count)
    }

    /// Takes those that nobody has begun with.
    func take() throws(Failure) {
      var buffer = ImageBuffer()
      while let turn = turns.next() {
        try complete(turn)
        let thread = threads[turn]
        if thread.isLeader { continue }
        try write(task, thread, &buffer)
        thread.core = CoreEntry()
        thread.noted = nil
        thread.traced.forget()
      }
    }
  }

  // MARK: From outside

  private mutating func collectFromOutside(_ thread: DumpedThread) throws(Failure) {
    var core = CoreEntry()
    core.mtype = .x86_64
    let home = try about("task \(thread.traced.tid): reading its registers") { () throws(Errno) in try thread.traced.readHome() }
    core.threadInfo = try CPUState.record(thread.traced.tid, home.registers)
    core.threadCore = ThreadCoreEntry()
    core.threadCore?.blkSigset = home.signalMask
    core.threadCore?.signalsP = try PendingSignals.record(thread.traced, shared: false)
    core.threadCore?.rseqEntry = try RestartableSequences.record(thread.traced, thread.noted)
    if thread.isLeader {
      core.tc = TaskCoreEntry()
      core.tc?.blkSigset = home.signalMask
      core.tc?.signalsS = try PendingSignals.record(thread.traced, shared: true)
    }
    try seccomp.record(thread, into: &core)
    thread.core = core
  }

  // MARK: From inside

  /// What is asked of threads of a task, until the answers are there.
  private struct Questions {
    let threads: [DumpedThread]
    private let slots: [Slot]
    private var states: [[any TaskState]] = []
    private var programs: [SyscallProgram] = []

    /// Loads a program for each thread into its slot.
    init(_ threads: [DumpedThread], _ slots: [Slot]) throws(Failure) {
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
      let (thread, slot) = (threads[i], slots[i])
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
          part.task, process, part.pages, to: image, sharesTable: sharedTables.contains(part.task.filesID)))
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
