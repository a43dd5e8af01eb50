import CLinux
import Glibc
import SystemPackage

/// Room for this process's descriptors.
public enum DescriptorRoom {
  /// As many as the hard limit allows (man 2 setrlimit, RLIMIT_NOFILE): who dumps or restores a tree has several open for each task.
  public static func raiseLimit() {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(7), &limit)
    limit.rlim_cur = limit.rlim_max
    setrlimit(__rlimit_resource_t(7), &limit)
  }

  /// How many there can be.
  public static var limit: Int {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(7), &limit)
    return Int(clamping: limit.rlim_cur)
  }

  /// Has the table made large, as long as there is one thread. It doubles when it is full, and where threads share it the kernel waits
  /// for all processors each time (fs/file.c: expand_fdtable, synchronize_rcu), which takes some ten milliseconds.
  public static func make() {
    raiseLimit()
    let highest = min(limit, 8192) - 1
    // Where this fails, all that is lost is time.
    guard let any = try? pidfdOpen(getpid()) else { return }
    let number = cl_syscall(Int(__NR_fcntl), Int(any.rawValue), 0 /* F_DUPFD */, highest, 0, 0, 0)
    if number >= 0 { _ = Descriptor(Int32(number)) }
  }
}
