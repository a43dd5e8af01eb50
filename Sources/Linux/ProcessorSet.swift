import CLinux
import Glibc

/// Processors that a thread may run on (man 2 sched_setaffinity).
struct ProcessorSet {
  private var bits = [UInt64](repeating: 0, count: 128)

  /// Those of this thread; `nil` if the kernel does not tell.
  static var own: ProcessorSet? {
    var set = ProcessorSet()
    let size = set.bits.withUnsafeMutableBytes {
      cl_syscall(Int(__NR_sched_getaffinity), 0, $0.count, Int(bitPattern: $0.baseAddress), 0, 0, 0)
    }
    guard size > 0 else { return nil }
    set.bits.removeLast(set.bits.count - size / 8)
    return set
  }

  /// The number of the processor that this thread runs on (man 2 getcpu).
  static var current: Int? {
    var cpu: UInt32 = 0
    let result = withUnsafeMutablePointer(to: &cpu) { cl_syscall(Int(__NR_getcpu), Int(bitPattern: $0), 0, 0, 0, 0, 0) }
    return result == 0 ? Int(cpu) : nil
  }

  func first(but other: Int) -> Int? {
    (0..<bits.count * 64).first { $0 != other && bits[$0 / 64] & 1 << UInt64($0 % 64) != 0 }
  }

  func without(_ cpu: Int) -> ProcessorSet {
    var set = self
    if cpu / 64 < bits.count { set.bits[cpu / 64] &= ~(1 << UInt64(cpu % 64)) }
    return set
  }

  /// Lets this thread run on them only. Where the kernel does not, nothing changes.
  func use() {
    bits.withUnsafeBytes {
      _ = cl_syscall(Int(__NR_sched_setaffinity), 0, $0.count, Int(bitPattern: $0.baseAddress), 0, 0, 0)
    }
  }
}

/// Has this thread stay off a processor while `body` runs, if there is another one: whom it wakes, and who was there before, is often left
/// waiting for it there, while another processor idles. The kernel remembers such a wish, and threads and processes that this thread makes
/// afterwards inherit that (kernel/fork.c: dup_user_cpus_ptr).
public func stayingOff<E: Error>(_ processor: Int?, _ body: () throws(E) -> Void) throws(E) {
  guard let processor, let all = ProcessorSet.own, all.first(but: processor) != nil else { return try body() }
  all.without(processor).use()
  defer { all.use() }
  try body()
}
