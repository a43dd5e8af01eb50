import CLinux
import Glibc
import SystemPackage

/// A process that ends others if this one dies before it says that they may live.
///
/// One `dismiss` decides for all of them at the same instant, which a ptrace option of each could not.
public struct Guardian: ~Copyable {
  private let pid: Int32

  /// Starts it. It allocates nothing, and so waits for no lock that another thread had in that moment.
  public init(killing victims: [Int32]) throws(Errno) {
    let own = try pidfdOpen(getpid())
    // A signal to the whole group, or the end of its terminal, must not take both.
    var set = sigset_t()
    sigfillset(&set)
    var old = sigset_t()
    sigprocmask(SIG_SETMASK, &set, &old)
    let child: Int
    do throws(Errno) {
      child = try syscall(__NR_clone, 0)
    } catch {
      sigprocmask(SIG_SETMASK, &old, nil)
      throw error
    }
    if child == 0 { Self.watch(own.rawValue, victims) }
    sigprocmask(SIG_SETMASK, &old, nil)
    pid = Int32(child)
  }

  /// From here on nobody is killed.
  public borrowing func dismiss() { kill(pid, SIGKILL) }

  deinit {
    kill(pid, SIGKILL)
    _ = cl_syscall(Int(__NR_wait4), Int(pid), 0, Int(0x8000_0000 as UInt32) /* __WCLONE */, 0, 0, 0)
  }

  private static func watch(_ parent: Int32, _ victims: [Int32]) -> Never {
    var poll = pollfd(fd: parent, events: Int16(POLLIN), revents: 0)
    while true {
      let result = withUnsafeMutablePointer(to: &poll) {
        cl_syscall(Int(__NR_poll), Int(bitPattern: $0), 1, -1, 0, 0, 0)
      }
      if result == 1 { break }
    }
    for victim in victims { kill(victim, SIGKILL) }
    _exit(0)
  }
}
