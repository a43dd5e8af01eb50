import CLinux
import Glibc
import Linux
import SystemPackage

/// The ptrace requests that are used here, typed (man 2 ptrace). All must come from the thread that attached.
public enum Ptrace {
  /// PTRACE_O_*
  public struct Options: OptionSet, Sendable {
    public let rawValue: Int
    public init(rawValue: Int) { self.rawValue = rawValue }
    public static let traceSysGood = Options(rawValue: 1)
    public static let exitKill = Options(rawValue: 1 << 20)
    public static let suspendSeccomp = Options(rawValue: 1 << 21)
  }

  @discardableResult
  static func request(_ request: Int, _ tid: Int32, _ address: Int = 0, _ data: Int = 0) throws(Errno)
    -> Int
  {
    try syscall(__NR_ptrace, request, Int(tid), address, data)
  }

  public static func seize(_ tid: Int32, _ options: Options) throws(Errno) {
    try request(Int(PTRACE_SEIZE), tid, 0, options.rawValue)
  }

  public static func interrupt(_ tid: Int32) throws(Errno) {
    try request(Int(PTRACE_INTERRUPT), tid)
  }

  /// Leaves a thread in its job-control stop, without holding it in the trap that told of it.
  static func listen(_ tid: Int32) throws(Errno) { try request(0x4208, tid) }

  public static func setOptions(_ tid: Int32, _ options: Options) throws(Errno) {
    try request(Int(PTRACE_SETOPTIONS), tid, 0, options.rawValue)
  }

  public static func cont(_ tid: Int32) throws(Errno) { try request(Int(PTRACE_CONT), tid) }

  /// Lets a stopped thread make the system call that its registers are set up for, and waits for its end.
  ///
  /// Not by a single step: the trap of one is a forced SIGTRAP, and a forced signal that is blocked or ignored loses its
  /// handler (kernel/signal.c: force_sig_info_to_task). With PTRACE_O_TRACESYSGOOD the stops of PTRACE_SYSCALL are no signals.
  public static func makeCall(_ tid: Int32) throws(Errno) {
    for _ in 0..<2 {
      try beginCall(tid)
      try awaitCallStop(tid)
    }
  }

  /// Lets it run to the next such stop, before or behind its system call.
  public static func beginCall(_ tid: Int32) throws(Errno) { try request(Int(PTRACE_SYSCALL), tid) }

  /// Waits for that stop.
  public static func awaitCallStop(_ tid: Int32) throws(Errno) {
    while true {
      switch try wait(tid) {
      case .syscall: return
      case .event: try beginCall(tid)  // a stop that was asked for twice
      case .exited, .signal, .trap: throw .noSuchProcess
      }
    }
  }

  public static func detach(_ tid: Int32, signal: Int32 = 0) throws(Errno) {
    try request(Int(PTRACE_DETACH), tid, 0, Int(signal))
  }

  /// The general registers (NT_PRSTATUS).
  public static func registers(_ tid: Int32) throws(Errno) -> Registers {
    var registers = Registers()
    _ = try withUnsafeMutablePointer(to: &registers.user) { pointer throws(Errno) in
      try request(Int(PTRACE_GETREGS), tid, 0, Int(bitPattern: pointer))
    }
    return registers
  }

  public static func setRegisters(_ tid: Int32, _ registers: Registers) throws(Errno) {
    var registers = registers
    _ = try withUnsafeMutablePointer(to: &registers.user) { pointer throws(Errno) in
      try request(Int(PTRACE_SETREGS), tid, 0, Int(bitPattern: pointer))
    }
  }

  /// The extended state (NT_X86_XSTATE), in the XSAVE format, not compacted.
  public static func extendedState(_ tid: Int32) throws(Errno) -> [UInt8] {
    var failure: Errno?
    let bytes = [UInt8](unsafeUninitializedCapacity: 16384) { buffer, count in
      var vector = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
      let result = withUnsafeMutablePointer(to: &vector) {
        cl_syscall(
          Int(__NR_ptrace), Int(PTRACE_GETREGSET), Int(tid), noteXState, Int(bitPattern: $0), 0, 0)
      }
      if result < 0 { failure = Errno(rawValue: Int32(-result)) } else { count = vector.iov_len }
    }
    if let failure { throw failure }
    return bytes
  }

  public static func setExtendedState(_ tid: Int32, _ state: [UInt8]) throws(Errno) {
    let result = state.withUnsafeBytes { bytes in
      var vector = iovec(
        iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
      return withUnsafeMutablePointer(to: &vector) {
        cl_syscall(
          Int(__NR_ptrace), Int(PTRACE_SETREGSET), Int(tid), noteXState, Int(bitPattern: $0), 0, 0)
      }
    }
    if result < 0 { throw Errno(rawValue: Int32(-result)) }
  }

  private static let noteXState = 0x202

  public static func signalMask(_ tid: Int32) throws(Errno) -> UInt64 {
    var mask: UInt64 = 0
    _ = try withUnsafeMutablePointer(to: &mask) { pointer throws(Errno) in
      try request(0x420a, tid, 8, Int(bitPattern: pointer))
    }
    return mask
  }

  /// Whether some of the thread's system calls are signals for itself instead (man 2 PR_SET_SYSCALL_USER_DISPATCH), which those of an
  /// executor would be too. Before Linux 6.4 the kernel does not tell.
  public static func dispatchesSyscalls(_ tid: Int32) -> Bool {
    // struct ptrace_sud_config: mode, selector, offset, length
    var config: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    let told = withUnsafeMutablePointer(to: &config) {
      cl_syscall(Int(__NR_ptrace), 0x4211 /* PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG */, Int(tid), 32, Int(bitPattern: $0), 0, 0)
    }
    return told == 0 && config.0 != 0
  }

  public static func setSignalMask(_ tid: Int32, _ mask: UInt64) throws(Errno) {
    var mask = mask
    _ = try withUnsafeMutablePointer(to: &mask) { pointer throws(Errno) in
      try request(0x420b, tid, 8, Int(bitPattern: pointer))
    }
  }

  private static let siginfoBytes = 128
  private static let siginfosAtOnce = 32
  /// Only the tracer's one thread uses it.
  nonisolated(unsafe) private static let siginfos = UnsafeMutableRawBufferPointer.allocate(
    byteCount: siginfoBytes * siginfosAtOnce, alignment: 8)

  /// Queued signals, as the kernel's 128-byte siginfo each; not taken off the queue (PTRACE_PEEKSIGINFO).
  public static func pendingSignals(_ tid: Int32, shared: Bool) throws(Errno) -> [[UInt8]] {
    var list: [[UInt8]] = []
    while true {
      // struct ptrace_peeksiginfo_args: u64 off, u32 flags, s32 nr
      var arguments = (UInt64(list.count), UInt32(shared ? 1 : 0), Int32(siginfosAtOnce))
      let n = try withUnsafeMutablePointer(to: &arguments) { arguments throws(Errno) in
        try request(0x4209, tid, Int(bitPattern: arguments), Int(bitPattern: siginfos.baseAddress))
      }
      for i in 0..<n { list.append(Array(siginfos[(i * siginfoBytes)..<((i + 1) * siginfoBytes)])) }
      if n < siginfosAtOnce { return list }
    }
  }

  /// A thread's registration of restartable sequences.
  public struct RseqConfiguration: Equatable, Sendable {
    public var pointer: UInt64 = 0
    public var size: UInt32 = 0
    public var signature: UInt32 = 0
    public var flags: UInt32 = 0
    var pad: UInt32 = 0
  }

  public static func rseqConfiguration(_ tid: Int32) throws(Errno) -> RseqConfiguration {
    var configuration = RseqConfiguration()
    _ = try withUnsafeMutablePointer(to: &configuration) { pointer throws(Errno) in
      try request(0x420f, tid, MemoryLayout<RseqConfiguration>.size, Int(bitPattern: pointer))
    }
    return configuration
  }

  /// The classic BPF program of the `index`-th seccomp filter, newest first (PTRACE_SECCOMP_GET_FILTER);
  /// `nil` past the last.
  public static func seccompFilter(_ tid: Int32, _ index: Int) throws(Errno) -> [UInt8]? {
    let count: Int
    do {
      count = try request(0x420c, tid, index, 0)
    } catch .noSuchFileOrDirectory {
      return nil
    }
    var program = [UInt8](repeating: 0, count: count * 8)
    let result = program.withUnsafeMutableBytes {
      cl_syscall(Int(__NR_ptrace), 0x420c, Int(tid), index, Int(bitPattern: $0.baseAddress), 0, 0)
    }
    if result < 0 { throw Errno(rawValue: Int32(-result)) }
    return program
  }

  /// The log flag of the `index`-th filter (PTRACE_SECCOMP_GET_METADATA).
  public static func seccompFilterFlags(_ tid: Int32, _ index: Int) throws(Errno) -> UInt64 {
    var metadata = (UInt64(index), UInt64(0))
    _ = try withUnsafeMutablePointer(to: &metadata) { pointer throws(Errno) in
      try request(0x420d, tid, 16, Int(bitPattern: pointer))
    }
    return metadata.1
  }

  /// When waiting for a stop ends with ETIMEDOUT, in nanoseconds of CLOCK_MONOTONIC. Set while there is one thread that traces.
  nonisolated(unsafe) private static var deadline = UInt64.max

  /// Lets no wait for a stop last longer than so many seconds from now: a task in an uninterruptible sleep stops only behind it.
  /// 0 takes the limit away.
  public static func limitWaiting(seconds: Int) {
    deadline = seconds == 0 ? UInt64.max : nanoseconds() + UInt64(UInt32(clamping: seconds)) * 1_000_000_000
    // The alarm has only to interrupt wait4.
    var action = sigaction()
    action.__sigaction_handler.sa_handler = { _ in }
    sigaction(SIGALRM, &action, nil)
    // Again and again behind the limit: letting go of what is frozen waits too.
    var timer = (interval: (seconds == 0 ? 0 : 1, 0), value: (seconds, 0))
    withUnsafeMutablePointer(to: &timer) { _ = cl_syscall(Int(__NR_setitimer), 0, Int(bitPattern: $0), 0, 0, 0, 0) }
  }

  /// Has tracees that die be waited for twice a second from now on, whatever this process waits for. An init that is killed waits for all
  /// of its namespace in its exit, and who is traced stays a zombie until the tracer has waited for it (kernel/pid_namespace.c:
  /// zap_pid_ns_processes, kernel/exit.c: wait_task_zombie): the tracer must not wait for the init alone.
  public static func takeDead(of tids: [Int32]) {
    let numbers = UnsafeMutableBufferPointer<Int32>.allocate(capacity: tids.count)
    _ = numbers.initialize(from: tids)
    cl_take_dead(numbers.baseAddress, numbers.count, 500)
  }

  /// How a traced thread stopped, or that it is gone.
  public enum Stop: Equatable, Sendable {
    /// PTRACE_EVENT_STOP: interrupted, or in a group stop by this signal.
    case event(groupStop: Int32?)
    /// A trap that nobody asked for.
    case trap
    /// Before or after a system call (PTRACE_SYSCALL with PTRACE_O_TRACESYSGOOD).
    case syscall
    /// About to be delivered this signal.
    case signal(Int32)
    case exited(status: Int32)
  }

  /// Waits for the next stop of a thread (man 2 wait4, __WALL).
  public static func wait(_ tid: Int32) throws(Errno) -> Stop {
    var status: Int32 = 0
    while true {
      do {
        try withUnsafeMutablePointer(to: &status) { pointer throws(Errno) in
          _ = try syscall(__NR_wait4, Int(tid), Int(bitPattern: pointer), Int(__WALL))
        }
        break
      } catch .interrupted {
        if nanoseconds() >= deadline { throw .timedOut }
      } catch .noChildProcess {
        // It has been waited for (``takeDead(of:)``).
        return .exited(status: 0)
      }
    }
    guard status & 0xff == 0x7f else { return .exited(status: status) }
    let signal = (status >> 8) & 0xff
    if status >> 16 == 128 {  // PTRACE_EVENT_STOP
      return .event(groupStop: signal == SIGTRAP ? nil : signal)
    }
    if signal == SIGTRAP | 0x80 { return .syscall }
    return signal == SIGTRAP ? .trap : .signal(signal)
  }

  private static let __WALL: Int32 = 0x4000_0000
}
