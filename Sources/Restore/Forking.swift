import CLinux
import Checkpoint
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

/// Executes the fork schedule: each wave is a program in every task that has steps in it.
struct Forking {
  let construction: Construction
  var plan: Plan { construction.plan }
  var area: ExecutorArea { construction.area }
  var helpers: HelperNumbers
  /// Calls whose results are children's PIDs, of the wave that runs.
  var births: [Birth] = []
  /// With `ns_last_pid` instead of `set_tid`: one step after the other.
  let dance: PIDDance?
  /// Whose memory a helper was born with.
  private var helperMemory: [HelperID: (donor: RestoredTask?, vdso: UInt64)] = [:]

  private var membership: Membership
  /// Who makes processes: their children find what they are born with as it was.
  private let parents: Set<ForkSchedule.Actor>

  /// A child that a call of a program makes.
  struct Birth {
    var slot: Slot
    var round: Int
    var call: SyscallProgram.Call
    var child: Child
    var parent: ForkSchedule.Actor
    var wanted: WantedPIDs
  }

  enum Child {
    case process(ForkSchedule.Actor)
    case thread(TaskID, index: Int)
  }

  /// A program of the round that runs, and how often it has tried a PID that was taken.
  private struct Running {
    var slot: Slot
    var program: SyscallProgram
    var actor: ForkSchedule.Actor
    var tries = 0
    /// How often it was looked at since the last try.
    var pause = 0
  }

  init(_ construction: Construction) throws(Failure) {
    self.construction = construction
    membership = Membership(construction)
    parents = Set(
      construction.plan.schedule.steps.lazy.filter { if case .clone = $0.action { true } else { false } }.map(\.executor))
    helpers = HelperNumbers(construction.plan)
    dance = construction.plan.restore.options.pidMethod == .nsLastPID ? try PIDDance(construction) : nil
  }

  mutating func run() throws(Failure) {
    if dance == nil {
      // What is known of a birth while it happens is more than what is kept of a task.
      for wave in plan.schedule.waves {
        for first in stride(from: 0, to: wave.count, by: Self.most) { try run(wave[first..<min(first + Self.most, wave.count)]) }
      }
    } else {
      // Two tasks that fork at the same time would take each other's numbers.
      for step in plan.schedule.steps.indices { try run([step]) }
    }
    dance?.end()
    try nameForTracer()
    try membership.mountProc()
  }

  /// So many steps are taken at a time.
  private static let most = max(TaskReading.large, 2)

  private mutating func run(_ wave: ArraySlice<Int>) throws(Failure) {
    var order: [ForkSchedule.Actor] = []
    var steps: [ForkSchedule.Actor: [ForkSchedule.Action]] = [:]
    for index in wave {
      let step = plan.schedule.steps[index]
      if steps[step.executor] == nil { order.append(step.executor) }
      steps[step.executor, default: []].append(step.action)
    }
    try giveMemory(before: steps)
    births = []
    births.reserveCapacity(wave.count)
    var work: [(actor: ForkSchedule.Actor, sequence: ProgramSequence, ends: Bool)] = []
    for actor in order {
      guard let slot = construction.slot(of: actor) else {
        for action in steps[actor] ?? [] { try spawn(action) }
        continue
      }
      var sequence = ProgramSequence(slot)
      var ends = false
      for action in steps[actor] ?? [] {
        sequence.makeRoom(calls: 14, bytes: 1024)
        ends = try append(action, by: actor, slot, &sequence) || ends
      }
      work.append((actor, sequence, ends))
    }
    let rounds = work.map(\.sequence.number).max() ?? 0
    for round in 0..<rounds { try run(round, of: work) }
    try membership.settle()
  }

  // MARK: Programs

  /// Runs the programs of one round, all at the same time.
  private mutating func run(
    _ round: Int, of work: [(actor: ForkSchedule.Actor, sequence: ProgramSequence, ends: Bool)]
  ) throws(Failure) {
    while true {
      try prepareDance(round + 1)
      var running: [Running] = []
      var unborn: [UInt64: Int] = [:]
      for birth in births where birth.round == round + 1 { unborn[birth.slot.address, default: 0] += 1 }
      for (actor, sequence, ends) in work where round < sequence.number {
        let program = sequence.programs[round]
        area.expectStarts(unborn[sequence.slot.address] ?? 0)
        sequence.slot.load(program)
        if ends && round == sequence.number - 1 {
          area.startWithoutReturn(sequence.slot)
        } else {
          area.start(sequence.slot)
          running.append(Running(slot: sequence.slot, program: program, actor: actor))
        }
      }
      try wait(for: &running, round + 1)
      if try !missedStep(round + 1) { break }
    }
    try takeBirths(of: round + 1)
  }

  /// Those that are born in a round and have no children themselves.
  private func headStart(_ round: Int) throws(Failure) -> HeadStart {
    var children: [HeadStart.Child] = []
    // Whose PID is not known beforehand, nobody would see dying.
    for birth in births where birth.round == round && dance == nil && plan.levels.namesToolLevel {
      guard case .process(let child) = birth.child, case .task(let id) = child, !parents.contains(child) else { continue }
      let (donor, vdso) = memory(of: birth.parent)
      children.append((plan.tasks[id.index], try number(of: child, at: plan.levels.tool), donor, vdso))
    }
    return HeadStart(construction, children)
  }

  private func wait(for running: inout [Running], _ round: Int) throws(Failure) {
    var children = try headStart(round)
    var times = 0
    try area.waitAll(checkingEvery: 5) { () throws(Failure) in
      times += 1
      if times % 40 == 0 {
        if running.allSatisfy(\.slot.isParked) { try noteBorn(round) }
        try construction.checkLiving()
      }
      for i in running.indices where running[i].slot.isParked { try retry(&running[i]) }
    } whenSomeEnd: { () throws(Failure) in
      try children.proceed()
    }
    try children.finish()
    for item in running { try item.slot.check(item.program, task: construction.name(item.actor)) }
  }

  /// Their parents have made them all: one that is not there any more has died before it said that it is.
  private func noteBorn(_ round: Int) throws(Failure) {
    for birth in births where birth.round == round && plan.levels.namesToolLevel {
      guard case .process(let child) = birth.child, case .task(let id) = child, !plan.tasks[id.index].isZombie else { continue }
      // A program that stopped is looked at by those who try again.
      guard birth.slot.result(birth.call) > 0 else { continue }
      construction.nowLives(try number(of: child, at: plan.levels.tool), child)
    }
  }

  /// A program that stopped leaves children unborn, for which nobody should wait. A PID that another process has may become
  /// free in a moment: the program goes on at that call. Anything else is an end.
  private func retry(_ item: inout Running) throws(Failure) {
    guard let stop = item.slot.stop(of: item.program) else { return }
    let birth = births.first { $0.slot.address == item.slot.address && $0.call == stop.call }
    if stop.result == -Int64(EEXIST), birth != nil, item.tries < plan.restore.options.pidRetries {
      // On a busy machine a process that is about to end may take its time: each try waits longer than the one before.
      item.pause += 1
      if item.pause <= item.tries { return }
      item.pause = 0
      item.tries += 1
      construction.pidRetries += 1
      item.slot.resume()
      area.start(item.slot)
      return
    }
    do throws(Failure) {
      try item.slot.check(item.program, task: construction.name(item.actor))
    } catch {
      throw explain(error, birth?.wanted, name: birth.map { name(of: $0.child) } ?? "")
    }
  }

  private mutating func prepareDance(_ round: Int) throws(Failure) {
    for birth in births where birth.round == round { try dance?.prepare(birth.wanted, by: birth.parent, in: self) }
  }

  /// With the dance: whether the child of this round has another PID than it should. It is gone then.
  private mutating func missedStep(_ round: Int) throws(Failure) -> Bool {
    guard dance != nil, let birth = births.first(where: { $0.round == round }) else { return false }
    let seen = try sight(birth)
    if try dance?.isRight(seen, birth.wanted, in: self) ?? true { return false }
    try remove(birth, seen)
    return true
  }

  /// Ends a child that should not be, and makes its slot free for the next.
  private func remove(_ birth: Birth, _ seen: Sighting) throws(Failure) {
    let slot: Slot?
    switch birth.child {
    case .thread(let id, let index):
      let own = area.slots[plan.threadSlots[id.index][index]]
      var program = SyscallProgram(for: own)
      program.call(__NR_exit, 0)
      own.load(program)
      area.startWithoutReturn(own)
      while kill(seen.pid, 0) == 0 { usleep(100) }
      slot = own
    case .process(let child):
      kill(seen.pid, SIGKILL)
      // Its parent is the one who made it, or that one's parent (CLONE_PARENT).
      let parent = construction.actor(seen.parent) ?? birth.parent
      if let reaper = construction.slot(of: parent) {
        var program = SyscallProgram(for: reaper)
        program.call(
          __NR_wait4, Argument(seen.number(at: level(of: parent) - plan.levels.tool)), 0, 0x4000_0000, 0,
          for: "waiting for a child that got another PID")
        try construction.run([(construction.name(parent), ProgramSequence(reaper, program))])
      } else {
        _ = cl_syscall(Int(__NR_wait4), Int(seen.pid), 0, 0x4000_0000, 0, 0, 0)
      }
      slot = construction.slot(of: child)
    }
    slot?.reset()
  }

  // MARK: Births

  private mutating func takeBirths(of round: Int) throws(Failure) {
    for birth in births where birth.round == round {
      guard case .process(let child) = birth.child else { continue }
      try isBorn(child, from: birth.parent, pid: try tracerPID(of: birth, child))
    }
  }

  /// The PID of a newborn process as this process sees it.
  private func tracerPID(of birth: Birth, _ child: ForkSchedule.Actor) throws(Failure) -> Int32 {
    if plan.levels.namesToolLevel { return try number(of: child, at: plan.levels.tool) }
    if level(of: birth.parent) == plan.levels.tool { return Int32(birth.slot.result(birth.call)) }
    return try sight(birth).pid
  }

  mutating func isBorn(_ child: ForkSchedule.Actor, from parent: ForkSchedule.Actor, pid: Int32) throws(Failure) {
    let (donor, vdso) = memory(of: parent)
    membership.isBorn(child, from: parent)
    switch child {
    case .tool: break
    case .task(let id):
      // One with a head start knows.
      if !plan.tasks[id.index].hasMemory { (plan.tasks[id.index].donor, plan.tasks[id.index].vdsoBase) = (donor, vdso) }
      plan.tasks[id.index].tracerPID = pid
      if !plan.tasks[id.index].isZombie { construction.nowLives(pid, child) }
    case .helper(let id):
      construction.helperPIDs[id] = pid
      helperMemory[id] = (donor, vdso)
    }
  }

  /// The task whose memory an actor's children are born with, and where they find the vDSO.
  private func memory(of actor: ForkSchedule.Actor) -> (donor: RestoredTask?, vdso: UInt64) {
    switch actor {
    case .tool: return (nil, construction.stubVDSO.map(\.lowerBound).min() ?? 0)
    case .helper(let id): return helperMemory[id] ?? (nil, 0)
    case .task(let id):
      let task = plan.tasks[id.index]
      return (task.hasMemory ? task : task.donor, task.vdsoBase)
    }
  }

  /// A task that is about to have children who shared pages with it gets its memory first.
  private func giveMemory(before steps: [ForkSchedule.Actor: [ForkSchedule.Action]]) throws(Failure) {
    var donors: [RestoredTask] = []
    for (actor, actions) in steps {
      guard case .task(let id) = actor, !plan.tasks[id.index].hasMemory else { continue }
      let parent = plan.tasks[id.index]
      let sharers = actions.contains { action in
        guard case .clone(let clone) = action, case .task(let child) = clone.child else { return false }
        return plan.tasks[child.index].pages.areShared(with: parent.pid)
      }
      if sharers { donors.append(parent) }
    }
    if !donors.isEmpty { try construction.giveMemory(donors) }
  }

  // MARK: The tool's own children

  /// The tool's own steps: the stubs that are its children.
  private mutating func spawn(_ action: ForkSchedule.Action) throws(Failure) {
    guard case .clone(let clone) = action, let slot = construction.slot(of: clone.child) else {
      throw Failure("the fork schedule has swift-restore itself do more than clone, which it cannot")
    }
    let pid = try make(clone, in: slot)
    try isBorn(clone.child, from: .tool, pid: pid)
    plan.restore.rootExists = true
    if construction.topPID == 0 { construction.topPID = pid }
    construction.nowLives(pid, clone.child)
    try area.waitAll { () throws(Failure) in try construction.checkLiving() }
    try strip(slot, pid, construction.name(clone.child))
    if case .task(let id) = clone.child { plan.tasks[id.index].vdsoBase = memory(of: .tool).vdso }
    if case .helper(let id) = clone.child { helperMemory[id] = memory(of: .tool) }
  }

  /// A child of this process, or of its parent, with the PIDs that it is to have.
  private mutating func make(_ clone: ForkSchedule.Clone, in slot: Slot) throws(Failure) -> Int32 {
    let wanted = wantedPIDs(of: clone)
    var tries = 0
    while true {
      try dance?.prepare(wanted, by: .tool, in: self)
      let (pid, errno) = attempt(clone, dance == nil ? wanted.setTID.map(\.rawValue) : [], in: slot)
      if let errno {
        tries += 1
        if errno == .fileExists, tries <= plan.restore.options.pidRetries {
          construction.pidRetries += 1
          usleep(5_000 * UInt32(min(tries, 100)))
          continue
        }
        let name = construction.name(clone.child)
        throw explain(Failure("\(name): clone3 with PID \(wanted.description)", errno), wanted, name: name)
      }
      if try dance?.isRight(Sighting(pid), wanted, in: self) ?? true { return pid }
      try area.waitAll { () throws(Failure) in try construction.checkLiving() }
      kill(pid, SIGKILL)
      _ = cl_syscall(Int(__NR_wait4), Int(pid), 0, 0x4000_0000, 0, 0, 0)
      slot.reset()
    }
  }

  private func attempt(_ clone: ForkSchedule.Clone, _ setTID: [Int32], in slot: Slot) -> (Int32, Errno?) {
    var arguments = cl_clone_args()
    arguments.flags = clone.flags.rawValue
    arguments.exit_signal = UInt64(clone.exitSignal.rawValue)
    if plan.restore.options.sibling {
      arguments.flags |= CloneFlags.parent.rawValue
      arguments.exit_signal = 0
    }
    var numbers = setTID
    do throws(Errno) {
      return try numbers.withUnsafeMutableBufferPointer { numbers throws(Errno) in
        arguments.set_tid = numbers.isEmpty ? 0 : UInt64(UInt(bitPattern: numbers.baseAddress))
        arguments.set_tid_size = UInt64(numbers.count)
        let pid = try Stub.spawn(
          in: slot, of: area, areaMemory: plan.restore.service.area, address: plan.stubAddress, arguments: arguments)
        return (pid, nil)
      }
    } catch {
      return (0, error)
    }
  }

  /// Takes everything out of a new stub's memory but the area and the vDSO, so that forking it is cheap.
  private func strip(_ slot: Slot, _ pid: Int32, _ name: String) throws(Failure) {
    let buffer = ReadBuffer()
    let mappings = try about(name) { () throws(Errno) in
      Mapping.parse(try ProcDirectory(pid: pid).read("maps", buffer))
    }
    var program = SyscallProgram(for: slot)
    for mapping in mappings where mapping.start != area.address {
      switch mapping.name.text {
      case "[vdso]": construction.stubVDSO.append(mapping.start..<mapping.end)
      case "[vvar]", "[vvar_vclock]": construction.stubVDSO.append(mapping.start..<mapping.end)
      case "[vsyscall]": break
      default:
        program.call(
          __NR_munmap, Argument(mapping.start), Argument(mapping.length), for: "unmapping the stub's",
          mapping.start)
      }
    }
    slot.load(program)
    area.start(slot)
    try area.waitAll { () throws(Failure) in try construction.checkLiving() }
    try slot.check(program, task: name)
  }

}
