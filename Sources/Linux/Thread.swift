import CLinux
import Glibc
import SystemPackage

/// Starts a thread of the tool's own, to be waited for with pthread_join(3). `nil`: there can be no more.
///
/// It has its root and working directory to itself (unshare(2), CLONE_FS): who shares them with another thread may not enter a mount
/// namespace (man 2 setns).
func startThread(_ body: @escaping () -> Void) -> pthread_t? {
  // One of two threads gets a heap of its own, lest they wait for each other.
  mallopt(M_ARENA_MAX, 2)
  keepMemory()
  let work = Unmanaged.passRetained(Work(body))
  var thread = pthread_t()
  let result = pthread_create(
    &thread, nil,
    { context in
      guard let context else { return nil }
      let work = Unmanaged<Work>.fromOpaque(context).takeRetainedValue()
      _ = cl_syscall(Int(__NR_unshare), 0x200 /* CLONE_FS */, 0, 0, 0, 0, 0)
      cl_make_heap(16 << 20)
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
