import CLinux
import Glibc
import Linux
import SystemPackage

/// A thread of a live program that the tracer holds, and gives back exactly as it was.
public final class TracedThread {
  public let tid: Int32
  /// The signal of the job-control stop that it was found in.
  public private(set) var groupStop: Int32?
  /// Runs 64-bit code: see ``Registers/is64Bit``.
  public private(set) var runs64BitCode = false
  private var isAway = false
  /// A call that was begun has reached the kernel.
  private var isAdvanced = false
  /// Held from when it is needed first until it is forgotten, and for as long as the thread is away.
  private var home: Home?

  /// What a thread was found with, and is given back.
  public final class Home {
    /// The program's own registers.
    public let registers: Registers
    /// The program's own signal mask; bit 0 is signal 1.
    public let signalMask: UInt64

    fileprivate init(_ registers: Registers, _ signalMask: UInt64) {
      self.registers = registers
      self.signalMask = signalMask
    }
  }

  /// Attaches and asks the thread to stop, without waiting for it. Neither the program nor its parent notices.
  public init(seizing tid: Int32) throws(Errno) {
    self.tid = tid
    try Ptrace.seize(tid, .traceSysGood)
    do {
      try Ptrace.interrupt(tid)
    } catch {
      try? Ptrace.detach(tid)  // it may be gone, which is all that the caller wants to hear
      throw error
    }
  }

  /// Waits for the stop that was asked for. `false`: the thread has exited.
  public func awaitStop() throws(Errno) -> Bool {
    while true {
      switch try Ptrace.wait(tid) {
      case .exited: return false
      case .event(let signal):
        if signal != nil && groupStop == nil {
          // Found in a job-control stop: it may have trapped for that, with the stop that was asked for still to come, and
          // would trap again as soon as it is sent into its executor. PTRACE_LISTEN lets it take that stop without running.
          groupStop = signal
          try Ptrace.listen(tid)
          try Ptrace.interrupt(tid)
          continue
        }
        var registers = try Ptrace.registers(tid)
        if try registers.undoInterruption(of: tid) { try Ptrace.setRegisters(tid, registers) }
        runs64BitCode = registers.is64Bit
        return true
      case .signal(let signal):
        // It was about to take a signal: it takes it, and stops at once behind it.
        try Ptrace.request(Int(PTRACE_CONT), tid, 0, Int(signal))
      case .trap, .syscall:
        try Ptrace.cont(tid)
      }
    }
  }

  /// The stopped thread's registers and signal mask. A tree of many waits long until each is asked: nothing is held till then.
  public func readHome() throws(Errno) -> Home {
    if let home { return home }
    let found = Home(try Ptrace.registers(tid), try Ptrace.signalMask(tid))
    home = found
    return found
  }

  /// Whoever wants to know them again has the thread asked again.
  public func forget() { if !isAway { home = nil } }

  /// Makes one system call in the stopped thread, through a `syscall` instruction that is there already. At a foothold's the thread
  /// goes home by itself if the tracer dies meanwhile; at any other it is lost then.
  public func call(
    at instruction: UInt64, _ number: Int32, _ a: UInt64 = 0, _ b: UInt64 = 0, _ c: UInt64 = 0,
    _ d: UInt64 = 0, _ e: UInt64 = 0, _ f: UInt64 = 0
  ) throws(Errno) -> UInt64 {
    try beginCall(at: instruction, number, a, b, c, d, e, f)
    return try finishCall()
  }

  /// Sets the thread going on a call, as ``call(at:_:_:_:_:_:_:_:)`` makes it, and does not wait for it.
  func beginCall(
    at instruction: UInt64, _ number: Int32, _ a: UInt64 = 0, _ b: UInt64 = 0, _ c: UInt64 = 0,
    _ d: UInt64 = 0, _ e: UInt64 = 0, _ f: UInt64 = 0
  ) throws(Errno) {
    let registers = try readHome().registers
    isAway = true
    do throws(Errno) {
      // The mask last, as in `enter`: the way home sets the program's own.
      try Ptrace.setRegisters(tid, registers.calling(number, at: instruction, a, b, c, d, e, f))
      try Ptrace.setSignalMask(tid, UInt64.max)
      try Ptrace.beginCall(tid)
    } catch {
      try goHome()
      throw error
    }
  }

  /// Waits until the thread is about to make the call that was begun, and lets it make it.
  func advanceCall() throws(Errno) {
    do throws(Errno) {
      try Ptrace.awaitCallStop(tid)
      try Ptrace.beginCall(tid)
    } catch {
      try goHome()
      throw error
    }
    isAdvanced = true
  }

  /// Waits for the end of the call that was begun: its result.
  func finishCall() throws(Errno) -> UInt64 {
    if !isAdvanced { try advanceCall() }
    isAdvanced = false
    let result: Int64
    do throws(Errno) {
      try Ptrace.awaitCallStop(tid)
      result = try Ptrace.registers(tid).result
    } catch {
      try goHome()
      throw error
    }
    try goHome()
    if result < 0 && result >= -4095 { throw Errno(rawValue: Int32(-result)) }
    return UInt64(bitPattern: result)
  }

  /// Room for the calls that must not be made in the area; `nil` where there is none.
  func makeFoothold(in pid: Int32, vdso: UInt64) throws(Errno) -> Foothold? {
    let home = try readHome()
    return Foothold.make(in: pid, vdso: vdso, registers: home.registers, signalMask: home.signalMask)
  }

  /// Keeps the thread's seccomp filters from stopping what runs in it here (PTRACE_O_SUSPEND_SECCOMP; needs CAP_SYS_ADMIN).
  public func suspendSeccomp() throws(Errno) {
    try Ptrace.setOptions(tid, [.traceSysGood, .suspendSeccomp])
  }

  /// Lets the thread's executor run the program that is loaded in its slot.
  public func enter(_ area: ExecutorArea, _ slot: Slot) throws(Errno) {
    let home = try readHome()
    slot.setHome(home.registers, signalMask: home.signalMask)
    // From here on a thread whose tracer dies runs its executor, which gives it registers and mask back.
    isAway = true
    try Ptrace.setRegisters(tid, home.registers.executing(area.code, slot: slot.address))
    try Ptrace.setSignalMask(tid, UInt64.max)
    area.expectStart()
    try Ptrace.cont(tid)
  }

  /// Asks the thread, parked in its executor, to stop.
  public func recall() throws(Errno) { try Ptrace.interrupt(tid) }

  /// Waits for that stop.
  public func awaitRecall() throws(Errno) {
    while true {
      switch try Ptrace.wait(tid) {
      case .event: return
      case .exited: throw .noSuchProcess
      case .trap, .signal, .syscall: try Ptrace.cont(tid)
      }
    }
  }

  /// Gives a stopped thread its own registers and signal mask back.
  public func goHome() throws(Errno) {
    guard isAway, let home else { return }
    // The mask first: in between the executor would still set it too.
    try Ptrace.setSignalMask(tid, home.signalMask)
    try Ptrace.setRegisters(tid, home.registers)
    isAway = false
  }

  /// Lets go of the thread. In a job-control stop it stays stopped; an interrupted call goes on.
  public func detach() {
    // ESRCH means that it was killed meanwhile: nothing is left to let go of.
    try? Ptrace.detach(tid)
  }
}
