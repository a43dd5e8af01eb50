import CLinux
import Glibc

/// Has large arrays lie in the heap, and the heap not shrink: each would have fresh pages otherwise, to be cleared and faulted in
/// (man 3 mallopt).
public func keepMemory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20)
  mallopt(M_TRIM_THRESHOLD, 32 << 20)
  mallopt(M_TOP_PAD, 256 << 10)
}

/// Gives back what is free of the heap, if that is much: what comes next needs less.
public func shrinkHeap() {
  if mallinfo2().fordblks > 4 << 20 { malloc_trim(0) }
}

/// Has the program's code lie in memory only as far as it is needed from now on: what has begun or decoded something will not run again.
/// Worth it where there is much to hold; some hundred page faults.
public func dropCode() { cl_drop_code() }
