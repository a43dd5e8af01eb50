import CLinux
import Checkpoint
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

extension Forking {
  /// Appends a step as calls; true if the executor ends with it.
  mutating func append(
    _ action: ForkSchedule.Action, by actor: ForkSchedule.Actor, _ slot: Slot, _ sequence: inout ProgramSequence
  ) throws(Failure) -> Bool {
    let round = sequence.number
    switch action {
    case .clone(let clone):
      guard let child = construction.slot(of: clone.child) else {
        throw Failure("the fork schedule has \(construction.name(actor)) clone swift-restore")
      }
      let wanted = wantedPIDs(of: clone)
      dance?.append(wanted, at: level(of: actor), &sequence.current)
      let call = appendClone(
        flags: clone.flags, wanted, exitSignal: clone.exitSignal, into: child, &sequence.current)
      births.append(
        Birth(slot: slot, round: round, call: call, child: .process(clone.child), parent: actor, wanted: wanted))
    case .makeThread(let index, let flags, let setTID):
      guard case .task(let id) = actor else { throw Failure("the fork schedule has a helper with threads") }
      let child = area.slots[plan.threadSlots[id.index][index]]
      let wanted = WantedPIDs(
        setTID: setTID, namespace: plan.tree[id].pidNamespace, innermost: level(of: actor), isInit: false)
      dance?.append(wanted, at: level(of: actor), &sequence.current)
      let call = appendClone(flags: flags, wanted, exitSignal: .none, into: child, &sequence.current)
      births.append(
        Birth(slot: slot, round: round, call: call, child: .thread(id, index: index), parent: actor, wanted: wanted))
    case .setsid:
      sequence.current.call(__NR_setsid, for: "starting its session")
    case .setpgid(let target, let group):
      let who = target == actor ? 0 : try number(of: target, at: level(of: actor))
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
      sequence.current.call(
        __NR_wait4, Argument(try number(of: child, at: level(of: actor))), 0, 0x4000_0000, 0, for: "waiting for a helper")
    case .exit(let status):
      appendExit(status, by: actor, &sequence.current)
      return true
    case .setns(let namespace):
      try appendSetns(namespace, by: actor, &sequence.current)
    case .unshare(let flags):
      sequence.current.call(__NR_unshare, Argument(flags.rawValue), for: "having for itself: unshare", flags.rawValue)
    case .exec:
      throw Failure("the fork schedule needs processes that share their memory, which is not supported yet (clone-vm)")
    }
    return false
  }

  private func appendClone(
    flags: CloneFlags, _ wanted: WantedPIDs, exitSignal: SignalNumber, into child: Slot,
    _ program: inout SyscallProgram
  ) -> SyscallProgram.Call {
    var arguments = cl_clone_args()
    arguments.flags = flags.rawValue
    arguments.exit_signal = UInt64(exitSignal.rawValue)
    // The child's stack pointer is its slot; the size only has to be something.
    arguments.stack = child.address - UInt64(pageSize)
    arguments.stack_size = UInt64(pageSize)
    let numbers = dance == nil ? wanted.setTID.map(\.rawValue) : []
    if !numbers.isEmpty {
      arguments.set_tid = numbers.withUnsafeBytes { program.place($0) }
      arguments.set_tid_size = UInt64(numbers.count)
    }
    return program.clone(arguments, for: "making PID", UInt64(wanted.setTID.last?.rawValue ?? 0))
  }

  /// Children are born in another PID namespace from here on: that of its init, which the executor can see (man 2 setns).
  private func appendSetns(
    _ namespace: PIDNamespaceID, by actor: ForkSchedule.Actor, _ program: inout SyscallProgram
  ) throws(Failure) {
    let leader = plan.schedule.namespaceInits[namespace] ?? actor
    let pid = try number(of: leader, at: level(of: actor))
    let descriptor = program.call(__NR_pidfd_open, Argument(pid), 0, for: "opening the init of a PID namespace", UInt64(pid))
    program.call(
      __NR_setns, .result(descriptor), Argument(CloneFlags.newPID.rawValue),
      for: "having its children born in another PID namespace")
    program.call(__NR_close, .result(descriptor))
  }

  /// Ends a zombie or a helper with the recorded status; a signal is taken with its default action, and a core file made only where
  /// the status says that there was one.
  private func appendExit(_ status: WaitStatus, by actor: ForkSchedule.Actor, _ program: inout SyscallProgram) {
    if case .task(let id) = actor {
      let name = [UInt8](plan.tasks[id.index].core.tc?.comm.prefix(15) ?? [])
      program.call(__NR_prctl, 15, Argument(program.place(path: name)))
    }
    if let signal = status.signal {
      if !status.dumpedCore || !CoreFlag.append(to: &program, plan.restore) {
        program.call(
          __NR_prlimit64, 0, 4 /* RLIMIT_CORE */, Argument(program.place((UInt64(0), UInt64(0)))), 0,
          mayFail: true)
      }
      let own = program.call(__NR_getpid)
      program.call(__NR_kill, .result(own), Argument(signal.rawValue))
      program.call(__NR_rt_sigprocmask, 2, Argument(program.place(UInt64(0))), 0, 8)
    }
    program.call(__NR_exit_group, Argument(status.exitCode ?? 0))
  }

  // MARK: Numbers

  /// How deep the namespace of an actor is, among the recorded levels.
  func level(of actor: ForkSchedule.Actor) -> Int {
    switch actor {
    case .tool: plan.levels.tool
    case .task(let id): plan.tree[id].pids.count - 1
    case .helper(let id): helpers.level(of: plan.schedule.helpers[id.index].pidNamespace)
    }
  }

  /// The numbers of a child: as planned, or a free choice for a helper that may have any.
  mutating func wantedPIDs(of clone: ForkSchedule.Clone) -> WantedPIDs {
    var setTID = clone.setTID
    if case .helper(let id) = clone.child { setTID = helpers.choose(id, planned: setTID) }
    return WantedPIDs(
      setTID: setTID, namespace: namespace(of: clone.child), innermost: level(of: clone.child),
      isInit: clone.flags.contains(.newPID))
  }

  private func namespace(of actor: ForkSchedule.Actor) -> PIDNamespaceID {
    switch actor {
    case .tool: PIDNamespaceID(PIDNamespaces.ownID)
    case .task(let id): plan.tree[id].pidNamespace
    case .helper(let id): plan.schedule.helpers[id.index].pidNamespace
    }
  }

  /// The PID of a process in the namespaces of a recorded level.
  func number(of actor: ForkSchedule.Actor, at level: Int) throws(Failure) -> Int32 {
    switch actor {
    case .tool: return getpid()
    case .task(let id):
      if level >= plan.levels.outermostNamed, plan.tree[id].pids.indices.contains(level) {
        return plan.tree[id].pids[level].rawValue
      }
    case .helper(let id): if let number = helpers.number(of: id, at: level) { return number }
    }
    throw Failure("the fork schedule needs the PID of \(construction.name(actor)) at level \(level), where it has none")
  }
}
