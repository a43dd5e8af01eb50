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
  private var plan: Plan { construction.plan }
  private var area: ExecutorArea { construction.area }
  /// Numbers that the kernel chose for helpers.
  private var helperPIDs: [HelperID: Int32] = [:]
  /// Calls whose results are children's PIDs, of the wave that runs.
  private var births: [(slot: Slot, round: Int, call: SyscallProgram.Call, child: ForkSchedule.Actor?, parent: ForkSchedule.Actor)] = []

  /// Whose memory a helper was born with.
  private var helperMemory: [HelperID: (donor: RestoredTask?, vdso: UInt64)] = [:]

  private var membership: Membership

  init(_ construction: Construction) {
    self.construction = construction
    membership = Membership(construction)
  }

  mutating func run() throws(Failure) {
    awaitReaping()
    for wave in plan.schedule.waves {
      try run(wave)
    }
  }

  /// A tree that was just dumped may still lie there as zombies that nobody has waited for, PID 1 being slow at it: their PIDs
  /// become free in a moment, for which it is worth to wait a little.
  private func awaitReaping() {
    let end = nanoseconds() + 2_000_000_000
    for task in plan.tasks {
      while holder(of: Int32(task.pid))?.state == UInt8(ascii: "Z"), nanoseconds() < end { usleep(2_000) }
    }
  }

  /// Who has a PID.
  private func holder(of pid: Int32) -> ProcStat? {
    guard kill(pid, 0) == 0 || errno != ESRCH else { return nil }
    let buffer = ReadBuffer()
    guard let directory = try? ProcDirectory(pid: pid), let text = try? directory.read("stat", buffer) else { return nil }
    return withExtendedLifetime(buffer) { ProcStat(text) }
  }

  private mutating func run(_ wave: [Int]) throws(Failure) {
    var order: [ForkSchedule.Actor] = []
    var steps: [ForkSchedule.Actor: [ForkSchedule.Action]] = [:]
    for index in wave {
      let step = plan.schedule.steps[index]
      if steps[step.executor] == nil { order.append(step.executor) }
      steps[step.executor, default: []].append(step.action)
    }
    try giveMemory(before: steps)
    births = []
    var work: [(actor: ForkSchedule.Actor, sequence: ProgramSequence, ends: Bool)] = []
    for actor in order {
      guard let slot = construction.slot(of: actor) else {
        for action in steps[actor] ?? [] { try spawn(action) }
        continue
      }
      var sequence = ProgramSequence(slot)
      var ends = false
      for action in steps[actor] ?? [] {
        sequence.makeRoom(calls: 5, bytes: 512)
        ends = try append(action, by: actor, slot, &sequence) || ends
      }
      work.append((actor, sequence, ends))
    }
    let rounds = work.map(\.sequence.number).max() ?? 0
    for round in 0..<rounds { try run(round, of: work) }
    try membership.settle()
  }

  /// Runs the programs of one round, all at the same time.
  private mutating func run(
    _ round: Int, of work: [(actor: ForkSchedule.Actor, sequence: ProgramSequence, ends: Bool)]
  ) throws(Failure) {
    var running: [(slot: Slot, program: SyscallProgram, name: String)] = []
    for (actor, sequence, ends) in work where round < sequence.number {
      let program = sequence.programs[round]
      area.expectStarts(births.count { $0.round == round + 1 && $0.slot.address == sequence.slot.address })
      sequence.slot.load(program)
      if ends && round == sequence.number - 1 {
        area.startWithoutReturn(sequence.slot)
      } else {
        area.start(sequence.slot)
        running.append((sequence.slot, program, construction.name(actor)))
      }
    }
    try area.waitAll { () throws(Failure) in try checkRound(running) }
    takeBirths(of: round + 1)
    for item in running {
      do throws(Failure) {
        try item.slot.check(item.program, task: item.name)
      } catch {
        throw explain(error)
      }
    }
  }

  /// A program that stopped early leaves children unborn, for which nobody should wait.
  private func checkRound(_ running: [(slot: Slot, program: SyscallProgram, name: String)]) throws(Failure) {
    try construction.checkLiving()
    for item in running where item.slot.isParked {
      do throws(Failure) {
        try item.slot.check(item.program, task: item.name)
      } catch {
        throw explain(error)
      }
    }
  }

  private mutating func takeBirths(of round: Int) {
    for birth in births where birth.round == round {
      let pid = birth.slot.result(birth.call)
      if pid > 0, let child = birth.child { isBorn(child, Int32(pid), from: birth.parent) }
    }
  }

  private mutating func isBorn(_ child: ForkSchedule.Actor, _ pid: Int32, from parent: ForkSchedule.Actor) {
    let (donor, vdso) = memory(of: parent)
    membership.isBorn(child, from: parent)
    switch child {
    case .tool: break
    case .task(let id):
      plan.tasks[id.index].donor = donor
      plan.tasks[id.index].vdsoBase = vdso
      plan.tasks[id.index].tracerPID = pid
      if !plan.tasks[id.index].isZombie { construction.nowLives(pid, construction.name(child)) }
    case .helper(let id):
      helperPIDs[id] = pid
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
        return plan.tasks[child.index].pagemap.contains { $0.cowWithPid == parent.pid }
      }
      if sharers { donors.append(parent) }
    }
    if !donors.isEmpty { try construction.giveMemory(donors) }
  }

  /// The tool's own steps: the stubs that are its children.
  private mutating func spawn(_ action: ForkSchedule.Action) throws(Failure) {
    guard case .clone(let clone) = action, let slot = construction.slot(of: clone.child) else {
      throw Failure("the fork schedule has swift-restore itself do more than clone, which it cannot")
    }
    var arguments = cl_clone_args()
    arguments.flags = clone.flags.rawValue
    arguments.exit_signal = UInt64(clone.exitSignal.rawValue)
    if plan.restore.options.sibling {
      arguments.flags |= CloneFlags.parent.rawValue
      arguments.exit_signal = 0
    }
    var numbers = clone.setTID.map(\.rawValue)
    let pid: Int32
    do throws(Errno) {
      pid = try numbers.withUnsafeMutableBufferPointer { numbers throws(Errno) in
        arguments.set_tid = UInt64(UInt(bitPattern: numbers.baseAddress))
        arguments.set_tid_size = UInt64(numbers.count)
        return try Stub.spawn(
          in: slot, of: area, areaMemory: plan.restore.service.area, address: plan.stubAddress,
          arguments: arguments)
      }
    } catch {
      let wanted = clone.setTID.map(\.description).joined(separator: ",")
      throw explain(Failure("\(construction.name(clone.child)): clone3 with PID \(wanted)", error))
    }
    isBorn(clone.child, pid, from: .tool)
    if construction.rootPID == 0 { construction.rootPID = pid }
    construction.nowLives(pid, construction.name(clone.child))
    try area.waitAll { () throws(Failure) in try construction.checkLiving() }
    try strip(slot, pid, construction.name(clone.child))
    if case .task(let id) = clone.child { plan.tasks[id.index].vdsoBase = memory(of: .tool).vdso }
    if case .helper(let id) = clone.child { helperMemory[id] = memory(of: .tool) }
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

  // MARK: Steps as calls

  /// Appends a step; true if the executor ends with it.
  private mutating func append(
    _ action: ForkSchedule.Action, by actor: ForkSchedule.Actor, _ slot: Slot, _ sequence: inout ProgramSequence
  ) throws(Failure) -> Bool {
    let round = sequence.number
    switch action {
    case .clone(let clone):
      guard let child = construction.slot(of: clone.child) else {
        throw Failure("the fork schedule has \(construction.name(actor)) clone swift-restore")
      }
      let call = appendClone(
        flags: clone.flags, setTID: clone.setTID, exitSignal: clone.exitSignal, into: child, &sequence.current)
      births.append((slot, round, call, clone.child, actor))
    case .makeThread(let index, let flags, let setTID):
      guard case .task(let id) = actor else { throw Failure("the fork schedule has a helper with threads") }
      let child = area.slots[plan.threadSlots[id.index][index]]
      let call = appendClone(flags: flags, setTID: setTID, exitSignal: .none, into: child, &sequence.current)
      births.append((slot, round, call, nil, actor))
    case .setsid:
      sequence.current.call(__NR_setsid, for: "starting its session")
    case .setpgid(let target, let group):
      let who = target == actor ? 0 : try pid(of: target)
      let leader: Int32
      switch group {
      case .own: leader = 0
      case .id(let id): leader = id.rawValue
      case .external: leader = getpgrp()
      }
      sequence.current.call(
        __NR_setpgid, Argument(who), Argument(leader), for: "entering process group", UInt64(leader))
    case .setChildSubreaper(let on):
      sequence.current.call(__NR_prctl, 36, on ? 1 : 0, for: "becoming a subreaper")
    case .wait(let child):
      sequence.current.call(__NR_wait4, Argument(try pid(of: child)), 0, 0x4000_0000, 0, for: "waiting for a helper")
    case .exit(let status):
      appendExit(status, by: actor, &sequence.current)
      return true
    case .setns, .unshare, .exec:
      throw Failure("the fork schedule needs a step that is not supported yet: \(action)")
    }
    return false
  }

  private func appendClone(
    flags: CloneFlags, setTID: [PID], exitSignal: SignalNumber, into child: Slot,
    _ program: inout SyscallProgram
  ) -> SyscallProgram.Call {
    var arguments = cl_clone_args()
    arguments.flags = flags.rawValue
    arguments.exit_signal = UInt64(exitSignal.rawValue)
    // The child's stack pointer is its slot; the size only has to be something.
    arguments.stack = child.address - UInt64(pageSize)
    arguments.stack_size = UInt64(pageSize)
    let numbers = setTID.map(\.rawValue)
    if !numbers.isEmpty {
      arguments.set_tid = numbers.withUnsafeBytes { program.place($0) }
      arguments.set_tid_size = UInt64(numbers.count)
    }
    return program.clone(arguments, for: "making PID", UInt64(setTID.last?.rawValue ?? 0))
  }

  /// Ends a zombie or a helper with the recorded status; a signal is taken with its default action, without a core file.
  private func appendExit(_ status: WaitStatus, by actor: ForkSchedule.Actor, _ program: inout SyscallProgram) {
    if case .task(let id) = actor {
      let name = [UInt8](plan.tasks[id.index].core.tc?.comm.prefix(15) ?? [])
      program.call(__NR_prctl, 15, Argument(program.place(path: name)))
    }
    if status.dumpedCore {
      plan.restore.warnings.append(
        "\(construction.name(actor)): its status comes back without the core flag: no core file is made again")
    }
    if let signal = status.signal {
      program.call(
        __NR_prlimit64, 0, 4 /* RLIMIT_CORE */, Argument(program.place((UInt64(0), UInt64(0)))), 0,
        mayFail: true)
      let own = program.call(__NR_getpid)
      program.call(__NR_kill, .result(own), Argument(signal.rawValue))
      program.call(__NR_rt_sigprocmask, 2, Argument(program.place(UInt64(0))), 0, 8)
    }
    program.call(__NR_exit_group, Argument(status.exitCode ?? 0))
  }

  private func pid(of actor: ForkSchedule.Actor) throws(Failure) -> Int32 {
    switch actor {
    case .tool: return getpid()
    case .task(let id): return Int32(plan.tasks[id.index].pid)
    case .helper(let id):
      if let pid = helperPIDs[id] ?? plan.schedule.helpers[id.index].pids.last?.rawValue { return pid }
      throw Failure("the fork schedule waits for helper \(id.index) before it is born")
    }
  }

  /// Says who has a PID that is taken.
  private func explain(_ failure: Failure) -> Failure {
    switch failure.errno {
    case .fileExists?:
      for task in plan.tasks where task.tracerPID == 0 {
        guard let stat = holder(of: Int32(task.pid)) else { continue }
        let isZombie = stat.state == UInt8(ascii: "Z")
        return Failure(
          "\(task.description): its PID is taken by the \(isZombie ? "zombie" : "process") \(stat.comm.text): clone3: \(Errno.fileExists.nameAndText)",
          advice: isZombie
            ? "It has ended, but its parent \(stat.ppid) has not waited for it; try again."
            : "End that process first; or restore once it is gone.",
          errno: .fileExists)
      }
      return Failure(
        failure.cause, advice: "A PID of the tree, or of a group or session of it, is taken.",
        errno: .fileExists)
    case .notPermitted?:
      return Failure(
        failure.cause, advice: "Choosing PIDs needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN; run as root.",
        errno: .notPermitted)
    default: return failure
    }
  }
}
