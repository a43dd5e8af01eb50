import CLinux
import Glibc
import Linux
import SystemPackage

/// Who can run programs for a dump: a task's leader in its executor, or the copy of a task.
public protocol ProgramRunner: AnyObject {
  /// Where programs are composed for; `nil` if there is no executor.
  var programSlot: Slot? { get }
  /// Sets it going on a program.
  func start(_ program: borrowing SyscallProgram)
  /// Waits for the program that was started last, and throws what stopped it.
  func finish(_ program: borrowing SyscallProgram) throws(Failure)
  /// Whether all programs that were started have ended.
  var isIdle: Bool { get }
}

extension ProgramRunner {
  /// Runs a program and waits for it.
  public func run(_ program: borrowing SyscallProgram) throws(Failure) {
    start(program)
    try finish(program)
  }
}

extension TracedProcess: ProgramRunner {
  public var programSlot: Slot? { area?.slots.first }
}

/// A copy-on-write fork of a task under dump: its memory as it was at one instant, which an executor writes while the task runs on.
///
/// The copy is a child of the task with exit signal 0: no signal tells of its end, and no `wait` finds it that does not ask for clones
/// (man 2 wait, __WCLONE). When its memory is written it ends, and the task, stopped for that moment, waits for it.
public final class TaskCopy: ProgramRunner {
  private let task: Int32
  /// As the tracer and as the task know it.
  public let pid: Int32
  private let innerPID: Int32
  private let area: ExecutorArea
  private let slot: Slot

  /// - Parameters:
  ///   - task: the PID of the task, in the tracer's namespace.
  ///   - pid: of the copy, in the tracer's namespace.
  ///   - innerPID: of the copy, in the task's namespace.
  init(of task: Int32, pid: Int32, innerPID: Int32, _ area: ExecutorArea, _ slot: Slot) {
    self.task = task
    self.pid = pid
    self.innerPID = innerPID
    self.area = area
    self.slot = slot
  }

  public var programSlot: Slot? { slot }
  public var isIdle: Bool { area.isIdle }

  public func start(_ program: borrowing SyscallProgram) {
    slot.load(program)
    area.start(slot)
  }

  public func finish(_ program: borrowing SyscallProgram) throws(Failure) {
    try area.waitAll { () throws(Failure) in
      if !isAlive { throw Failure("the copy of task \(task) died while it was being dumped") }
    }
    try slot.check(program, task: "the copy of task \(task)")
  }

  /// Takes it away from what the task has: its descriptors would keep pipes open, and a signal to the task's group is not for it.
  public func beginLife() -> SyscallProgram {
    var program = SyscallProgram(for: slot)
    program.call(__NR_close_range, 0, Argument(UInt32.max), 0, for: "closing its descriptors")
    program.call(__NR_setpgid, 0, 0, for: "making a group of its own")
    start(program)
    return program
  }

  private var isAlive: Bool {
    let buffer = ReadBuffer()
    guard let directory = try? ProcDirectory(pid: pid), let text = try? directory.read("stat", buffer),
      let stat = ProcStat(text)
    else { return false }
    return ![UInt8(ascii: "Z"), UInt8(ascii: "X")].contains(stat.state)
  }

  /// Ends the copy, without waiting.
  public func beginEnd() {
    do throws(Failure) { try area.waitAll { () throws(Failure) in if !isAlive { throw Failure("") } } } catch { return }
    var program = SyscallProgram(for: slot)
    program.call(__NR_exit_group, 0)
    slot.load(program)
    area.startWithoutReturn(slot)
  }

  /// Waits for the end of the copy, and has the task wait for it. `false`: the task cannot be made to, and has a zombie for a child
  /// until it waits for that itself, or ends.
  public func end() -> Bool {
    do throws(Errno) {
      let pidfd = try pidfdOpen(pid)
      var event = pollfd(fd: pidfd.rawValue, events: Int16(POLLIN), revents: 0)
      // An error is an interruption: it will be asked again.
      while poll(&event, 1, 1000) <= 0 { kill(pid, SIGKILL) }
      try reap()
      return true
    } catch {
      // Without a child there was nothing to wait for: the task has ignored SIGCHLD, waited for all kinds itself, or ended.
      return error == .noChildProcess || !isLeft
    }
  }

  /// Whether it is there, if only as a zombie of the task's.
  private var isLeft: Bool {
    let buffer = ReadBuffer()
    guard let text = try? ProcDirectory(pid: pid).read("stat", buffer), let stat = ProcStat(text) else { return false }
    return stat.ppid == task
  }

  /// The task may be another program by now, in an address space of its own, and may have forbidden itself a system call: nothing that
  /// was known of it at the freeze is.
  private func reap() throws(Errno) {
    if !isLeft { return }
    let buffer = ReadBuffer()
    let folder = try ProcDirectory(pid: task)
    // While only the leader is traced, a signal that is ignored would interrupt the calls of the other threads.
    var others: [TracedThread] = []
    for tid in try folder.numbers(in: "task", buffer) where tid != task {
      if let other = try? TracedThread(seizing: tid) { others.append(other) }
    }
    let leader = Result { () throws(Errno) in try TracedThread(seizing: task) }
    // Those that have ended meanwhile are gone.
    let stopped = others.filter { (try? $0.awaitStop()) == true }
    defer { for other in stopped { other.detach() } }
    let thread = try leader.get()
    guard try thread.awaitStop() else { return }
    defer { thread.detach() }
    if ProcStatus(try folder.read("status", buffer)).seccompMode != 0 { try thread.suspendSeccomp() }
    let vdso = try Mapping.parse(folder.read("maps", buffer)).first { $0.name == Array("[vdso]".utf8) }
    guard thread.runs64BitCode, let vdso, let offset = VDSO.syscallOffset else { throw .notSupported }
    let foothold = try thread.makeFoothold(in: task, vdso: vdso.start)
    // WNOHANG | __WALL
    _ = try thread.call(at: foothold?.call ?? vdso.start + offset, __NR_wait4, UInt64(innerPID), 0, 0x4000_0001, 0)
  }
}
