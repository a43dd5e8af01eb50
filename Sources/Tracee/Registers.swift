import CLinux
import Linux
import SystemPackage

/// A thread's general registers, with FS and GS base (struct user_regs_struct of sys/user.h).
public struct Registers: Sendable {
  public var user = user_regs_struct()

  public init() {}

  /// The registers for a system call at `instruction`, on the same stack. orig_rax says that no call was interrupted,
  /// so that the kernel's restart rule leaves them alone.
  public func calling(
    _ number: Int32, at instruction: UInt64, _ a: UInt64 = 0, _ b: UInt64 = 0, _ c: UInt64 = 0,
    _ d: UInt64 = 0, _ e: UInt64 = 0, _ f: UInt64 = 0
  ) -> Registers {
    var r = self
    r.user.rip = instruction
    r.user.rax = UInt64(number)
    r.user.orig_rax = UInt64.max
    r.user.rdi = a
    r.user.rsi = b
    r.user.rdx = c
    r.user.r10 = d
    r.user.r8 = e
    r.user.r9 = f
    return r
  }

  /// The registers that start an executor.
  public func executing(_ code: UInt64, slot: UInt64) -> Registers {
    var r = self
    r.user.rip = code
    r.user.rsp = slot
    r.user.orig_rax = UInt64.max
    r.user.eflags &= ~0x400  // DF
    return r
  }

  public var result: Int64 { Int64(bitPattern: UInt64(user.rax)) }

  /// The interrupted system call's number; `nil` if the thread was not in one, or it had ended.
  public var interruptedCall: Int64? {
    let number = Int64(bitPattern: UInt64(user.orig_rax))
    guard number >= 0, (-516 ... -512).contains(result), result != -515 else { return nil }
    return number
  }

  /// Runs 64-bit code: neither i386 nor x32's compatibility mode.
  public var is64Bit: Bool { user.cs == 0x33 }

  /// What the kernel would make of an interrupted call when the thread goes on and no handler runs: the call is made again
  /// (arch/x86/kernel/signal.c: arch_do_signal_or_restart). A call with a restart block goes on through
  /// restart_syscall in the same task; in another task there is no block, and the call itself is made again.
  public func restartingCall(restartBlockIsValid: Bool) -> Registers {
    guard interruptedCall != nil else { return self }
    var r = self
    r.user.rip -= 2
    r.user.rax = result == -516 && restartBlockIsValid ? UInt64(__NR_restart_syscall) : user.orig_rax
    r.user.orig_rax = UInt64.max
    return r
  }

  /// Calls that return EINTR for any stop, also one without a signal (man 7 signal: "even in the absence of signal handlers"):
  /// rt_sigtimedwait, epoll_wait, epoll_pwait, epoll_pwait2, semop, semtimedop, io_getevents, io_pgetevents, msgsnd, msgrcv.
  private static let neverRestarted: Set<Int64> = [128, 232, 281, 441, 65, 220, 208, 333, 69, 70]

  /// What the stop itself has done to a thread is undone: a call that says EINTR although no signal came is made again unless a
  /// handler runs first (-ERESTARTNOHAND), and a restartable sequence (man 2 rseq) is left for its abort handler, as
  /// the kernel does it at a preemption. Returns whether there was anything to undo.
  mutating func undoInterruption(of tid: Int32) throws(Errno) -> Bool {
    let number = Int64(bitPattern: UInt64(user.orig_rax))
    if number >= 0 {
      guard result == -4, Self.neverRestarted.contains(number) else { return false }
      user.rax = UInt64(bitPattern: -514)
      return true
    }
    let configuration = try Ptrace.rseqConfiguration(tid)
    guard configuration.pointer != 0 else { return false }
    // struct rseq: cpu_id_start, cpu_id, then the address of a struct rseq_cs
    var section: UInt64 = 0
    try readMemory(of: tid, at: configuration.pointer + 8, into: &section)
    guard section != 0 else { return false }
    // struct rseq_cs: version and flags, start, length, abort handler
    var description: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    try readMemory(of: tid, at: section, into: &description)
    let ip = UInt64(user.rip)
    guard ip >= description.1, ip - description.1 < description.2 else { return false }
    user.rip = description.3
    return true
  }

  /// Machine code that gives a thread its registers back without the tracer: the signal mask, the flags, all
  /// general registers, and a jump. It touches neither stack nor memory of the program. For an interrupted call
  /// the restart rule is applied.
  public func homeCode(at address: UInt64, maskAddress: UInt64) -> [UInt8] {
    let r = restartingCall(restartBlockIsValid: true).user
    var code: [UInt8] = []
    func load(_ prefix: [UInt8], _ value: UInt64) {
      code += prefix
      for shift in stride(from: UInt64(0), to: 64, by: 8) {
        code.append(UInt8(truncatingIfNeeded: value >> shift))
      }
    }
    // A signal may come as soon as the mask is back: the stack pointer must be the program's by then.
    load([0x48, 0xbc], UInt64(r.rsp))
    load([0x48, 0xbf], 2)  // SIG_SETMASK
    load([0x48, 0xbe], maskAddress)
    code += [0x31, 0xd2, 0x41, 0xba, 8, 0, 0, 0, 0xb8, 14, 0, 0, 0, 0x0f, 0x05]  // rt_sigprocmask
    // Flags without a stack: OF by an addition, the others by sahf, DF by cld or std.
    let flags = UInt64(r.eflags)
    let overflow: UInt8 = flags & 0x800 != 0 ? 0x7f : 0
    code += [0x66, 0xb8, overflow, UInt8(truncatingIfNeeded: flags)]  // mov $(flags << 8 | overflow), %ax
    code += [0x04, 0x01, 0x9e]  // add $1, %al; sahf
    code.append(flags & 0x400 != 0 ? 0xfd : 0xfc)
    load([0x48, 0xb8], UInt64(r.rax))
    load([0x48, 0xbb], UInt64(r.rbx))
    load([0x48, 0xb9], UInt64(r.rcx))
    load([0x48, 0xba], UInt64(r.rdx))
    load([0x48, 0xbe], UInt64(r.rsi))
    load([0x48, 0xbf], UInt64(r.rdi))
    load([0x48, 0xbd], UInt64(r.rbp))
    load([0x49, 0xb8], UInt64(r.r8))
    load([0x49, 0xb9], UInt64(r.r9))
    load([0x49, 0xba], UInt64(r.r10))
    load([0x49, 0xbb], UInt64(r.r11))
    load([0x49, 0xbc], UInt64(r.r12))
    load([0x49, 0xbd], UInt64(r.r13))
    load([0x49, 0xbe], UInt64(r.r14))
    load([0x49, 0xbf], UInt64(r.r15))
    load([0xff, 0x25, 0, 0, 0, 0], UInt64(r.rip))  // jmp *0(%rip)
    return code
  }
}
