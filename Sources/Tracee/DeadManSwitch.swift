import CLinux
import Linux
import SystemPackage

/// Tells parked executors that the tracer is gone, by a robust futex: the kernel walks the dead thread's list, marks
/// each word that holds its TID with FUTEX_OWNER_DIED, and wakes the waiter (Documentation/locking/robust-futex-ABI.rst,
/// kernel/futex/core.c: handle_futex_death). Nothing that runs in the tracer can be needed for it.
public final class DeadManSwitch {
  /// The kernel walks at most so many entries (ROBUST_LIST_LIMIT).
  public static let capacity = 2048

  private let head: UnsafeMutablePointer<cl_robust_head>
  /// The TID of the thread that made the switch, and must live.
  public let tracer: UInt32
  public private(set) var count = 0

  /// Replaces the calling thread's robust list; Swift's runtime holds no robust mutex.
  public init() throws(Errno) {
    head = .allocate(capacity: 1)
    head.initialize(
      to: cl_robust_head(next: UInt64(UInt(bitPattern: head)), futex_offset: 8, pending: 0))
    tracer = UInt32(try syscall(__NR_gettid))
    try syscall(__NR_set_robust_list, Int(bitPattern: head), MemoryLayout<cl_robust_head>.size)
  }

  deinit {
    retire()
    head.deallocate()
  }

  /// There is nobody left to tell. The kernel would look at every slot once more when the thread ends.
  public func retire() {
    _ = cl_syscall(Int(__NR_set_robust_list), 0, MemoryLayout<cl_robust_head>.size, 0, 0, 0, 0)
  }

  private var headAddress: UInt64 { UInt64(UInt(bitPattern: head)) }

  /// Watches a slot. The links are the tracer's addresses and live in the slot, which is mapped here too.
  func insert(_ slot: Slot) {
    let node = UInt64(UInt(bitPattern: slot.local))
    slot.header.pointee.robust_next = head.pointee.next
    slot.header.pointee.robust_previous = headAddress
    if head.pointee.next != headAddress { Self.slot(at: head.pointee.next)?.pointee.robust_previous = node }
    head.pointee.next = node
    count += 1
  }

  /// Must precede the unmapping of the slot.
  func remove(_ slot: Slot) {
    let header = slot.header
    guard header.pointee.robust_next != 0 else { return }
    if header.pointee.robust_previous == headAddress {
      head.pointee.next = header.pointee.robust_next
    } else {
      Self.slot(at: header.pointee.robust_previous)?.pointee.robust_next = header.pointee.robust_next
    }
    if header.pointee.robust_next != headAddress {
      Self.slot(at: header.pointee.robust_next)?.pointee.robust_previous = header.pointee.robust_previous
    }
    header.pointee.robust_next = 0
    count -= 1
  }

  /// A node of the list is the first field of a slot of this process.
  private static func slot(at address: UInt64) -> UnsafeMutablePointer<executor_slot>? {
    UnsafeMutablePointer(bitPattern: UInt(address))
  }
}
