import CLinux
import Glibc
import SystemPackage

/// Work that must not end in the middle, done by a child of the process that the user knows.
///
/// Who kills the tool kills that process, often with SIGKILL. The child hears of it (PR_SET_PDEATHSIG), and goes back in
/// good order. It leaves the process group too, so that a signal to the whole group does not meet both.
public enum Guarded {
  /// The signals that ask to stop. In the child they wait until they are looked for.
  public static let interruptions = [SIGINT, SIGTERM, SIGHUP]

  /// Runs `work` in a child, in the same memory, and exits as the child does. There must be one thread only. Errors are clone's
  /// (man 2 clone).
  public static func run(_ work: () -> Int32) throws(Errno) -> Never {
    hold(interruptions + [SIGCHLD])
    let parent = getpid()
    let result = cl_leave_to_child(interruptions.reduce(0) { $0 | 1 << UInt64($1 - 1) })
    if result < 0 { throw Errno(rawValue: Int32(-result)) }
    setpgid(0, 0)
    // When the last thread of a tracee goes after its leader, the tracer is sent the exit signal of that process, whatever it is
    // (kernel/exit.c: release_task). SIGALRM has a handler (Ptrace.limitWaiting).
    hold((1...64).filter { $0 != SIGALRM })
    _ = cl_syscall(Int(__NR_prctl), 1 /* PR_SET_PDEATHSIG */, Int(SIGTERM), 0, 0, 0, 0)
    // It may have died before that.
    if getppid() != parent { exit(1) }
    DescriptorRoom.make()
    exit(onThread(work))
  }

  /// Runs `work` on a thread that was made for it, and waits.
  ///
  /// Swift's locks hold the TID of their owner, which each thread asks for once. The child goes on with its parent's, and two
  /// threads that meet at such a lock would wait for a process that does not know of it.
  private static func onThread(_ work: () -> Int32) -> Int32 {
    withoutActuallyEscaping(work) { work in
      var result: Int32 = 1
      guard let thread = startThread({ result = work() }) else { return work() }
      // Signals are that thread's.
      hold((1...64).map { $0 })
      pthread_join(thread, nil)
      return result
    }
  }

  /// Whether a signal that asks to stop has come: its number.
  public static var interruption: Int32? {
    var set = sigset_t()
    sigpending(&set)
    return interruptions.first { sigismember(&set, $0) == 1 }
  }

  /// Has signals wait until they are taken.
  public static func hold(_ signals: [Int32]) {
    var set = sigset_t()
    sigemptyset(&set)
    for signal in signals { sigaddset(&set, signal) }
    sigprocmask(SIG_BLOCK, &set, nil)
  }

  /// Takes one of some signals that are held; waits for it.
  public static func take(_ signals: [Int32]) -> Int32 {
    var set = sigset_t()
    sigemptyset(&set)
    for signal in signals { sigaddset(&set, signal) }
    var signal: Int32 = 0
    sigwait(&set, &signal)
    return signal
  }
}
