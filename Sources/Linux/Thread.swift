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

/// Has large arrays lie in the heap, and the heap not shrink: each would have fresh pages otherwise, to be cleared and faulted in
/// (man 3 mallopt).
public func keepMemory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20)
  mallopt(M_TRIM_THRESHOLD, 32 << 20)
  mallopt(M_TOP_PAD, 256 << 10)
}

/// Has the program's code lie in memory only as far as it is needed from now on: what has begun or decoded something will not run again.
/// Worth it where there is much to hold; some hundred page faults.
public func dropCode() { cl_drop_code() }

/// A closure as something that a pointer can be had of.
private final class Work {
  let body: () -> Void
  init(_ body: @escaping () -> Void) { self.body = body }
}
