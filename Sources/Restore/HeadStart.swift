import Linux
import ProcessTree
import Resources
import Tracee

/// Children that get their memory, and all else that they need nobody else for, while their brothers are being born: a parent makes
/// one process after the other, and there is a processor to spare.
struct HeadStart {
  /// A child that is to be born, its PID for this process, and what it is born with.
  typealias Child = (task: RestoredTask, pid: Int32, donor: RestoredTask?, vdsoBase: UInt64)

  private let construction: Construction
  /// In the order of their births.
  private let children: [Child]
  private var composed = 0
  /// How many have what they need since the area was let go of.
  private var done = 0
  private var underway: [Runner] = []

  /// A child's programs, and how many of them have been started.
  private struct Runner {
    let child: Child
    let sequence: ProgramSequence
    var started = 0
  }

  /// So many at a time: their programs take memory.
  private static let most = 32

  init(_ construction: Construction, _ children: [Child]) {
    self.construction = construction
    self.children = children.filter { construction.mayHaveHeadStart($0.task) }
  }

  /// Goes on with whoever has been born, or has ended a program, and composes more for those who have not.
  mutating func proceed() throws(Failure) {
    try advance()
    while underway.count < Self.most, underway.reduce(0, { $0 + $1.sequence.number }) < Construction.mostPrograms,
      composed < children.count, !construction.area.isIdle
    {
      let child = children[composed]
      composed += 1
      underway.append(Runner(child: child, sequence: try construction.composeAhead(child)))
      try advance()
    }
  }

  /// All are born; waits for those that have begun. The others are like any that had no start.
  mutating func finish() throws(Failure) {
    while !underway.isEmpty {
      try advance()
      try construction.area.waitAll { () throws(Failure) in try construction.checkLiving() }
    }
    construction.area.forgetSome()
  }

  private mutating func advance() throws(Failure) {
    for i in underway.indices where underway[i].sequence.slot.isParked {
      let (programs, slot, started) = (underway[i].sequence.programs, underway[i].sequence.slot, underway[i].started)
      let (task, pid) = (underway[i].child.task, underway[i].child.pid)
      if started == 0 { construction.nowLives(pid, .task(TaskID(Int(task.index)))) }
      if started > 0 { try slot.check(programs[started - 1], task: task.description) }
      if started < programs.count { construction.start(programs[started], in: slot) }
      underway[i].started += 1
    }
    let ready = underway.lazy.filter { $0.started > $0.sequence.number }
    if ready.isEmpty { return }
    for runner in ready { runner.child.task.hasMemory = true }
    // Their slots need not stay in this process's memory.
    done += ready.count
    if done >= Self.most {
      construction.area.forgetSome()
      done = 0
    }
    underway.removeAll { $0.started > $0.sequence.number }
  }
}

extension Construction {
  /// Whether what a task needs is known before it is born: it is small, and lives where this process does.
  fileprivate func mayHaveHeadStart(_ task: RestoredTask) -> Bool {
    restore.namespaces.areNone && !task.isZombie && !task.hasForeignVDSO && !task.pages.areMany
  }

  /// It must not have children before it has its memory.
  fileprivate func composeAhead(_ child: HeadStart.Child) throws(Failure) -> ProgramSequence {
    let task = child.task
    (task.donor, task.vdsoBase) = (child.donor, child.vdsoBase)
    try wake(task)
    defer { plan.rest(task) }
    var sequence = ProgramSequence(area.slots[plan.slot(of: task)])
    try compose(task, &sequence)
    // What it shares is its brothers' too, while these are born.
    if !plan.shares(task), restore.needsNobody(task) { try equip(task, &sequence) }
    return sequence
  }
}
