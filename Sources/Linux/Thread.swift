import CLinux
import Glibc
import SystemPackage

/// Starts a thread of the tool's own, to be waited for with pthread_join(3). `nil`: there can be no more.
///
/// It has its root and working directory to itself (unshare(2), CLONE_FS): who shares them with another thread may not enter a mount
/// namespace (man 2 setns).
func startThread(_ body: @escaping () -> Void) -> pthread_t? {
  // The thread gets a heap of its own, lest the two wait for each other. It would grow by a page and one mprotect at a time
  // (glibc malloc/arena.c: grow_heap).
  mallopt(M_ARENA_MAX, 2)
  mallopt(M_TOP_PAD, 256 << 10)
  let work = Unmanaged.passRetained(Work(body))
  var thread = pthread_t()
  let result = pthread_create(
    &thread, nil,
    { context in
      guard let context else { return nil }
      let work = Unmanaged<Work>.fromOpaque(context).takeRetainedValue()
      _ = cl_syscall(Int(__NR_unshare), 0x200 /* CLONE_FS */, 0, 0, 0, 0, 0)
      work.body()
      return nil
    }, work.toOpaque())
  guard result == 0 else {
    work.release()
    return nil
  }
  return thread
}

/// A closure as something that a pointer can be had of.
private final class Work {
  let body: () -> Void
  init(_ body: @escaping () -> Void) { self.body = body }
}
