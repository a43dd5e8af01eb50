import CLinux
import Glibc
import Linux
import SystemPackage

/// The memory that executors and the tracer share: the executor's code and the counter of ended programs in the first
/// page, then a slot for each thread.
///
/// A dump maps one area in each process. A restore maps one area in the root, which all tasks inherit.
public final class ExecutorArea {
  private let local: UnsafeMutableRawPointer
  public let size: Int
  /// Where the tasks see it.
  public let address: UInt64
  public let slots: [Slot]
  private let deadManSwitch: DeadManSwitch
  private var started: UInt32 = 0
  /// The first slots, which are in the tracer's robust list themselves.
  private var watched = 0

  private static let counterOffset = 4032
  /// Who goes over all slots of a large area has so many of them in this process's memory at a time.
  private static let mostSlots = 256
  private static let leastForgotten = 12 << 20

  /// The bytes that an area with such slots takes; slot sizes are multiples of the page.
  public static func size(slots: [Int]) -> Int { slots.reduce(pageSize, +) }

  /// Maps the memory behind a descriptor here, and writes the executor into it. Before anybody executes it comes ``watch(each:)``.
  public init(
    memory descriptor: Int32, address: UInt64, slots sizes: [Int], deadManSwitch: DeadManSwitch
  ) throws(Errno) {
    size = Self.size(slots: sizes)
    self.address = address
    self.deadManSwitch = deadManSwitch
    let mapped = try syscall(
      __NR_mmap, 0, size, Int(PROT_READ | PROT_WRITE), Int(MAP_SHARED), Int(descriptor), 0)
    // The kernel never maps at 0 unless told to.
    guard let base = UnsafeMutableRawPointer(bitPattern: mapped) else { throw .noMemory }
    local = base
    base.copyMemory(from: UnsafeRawPointer(cl_executor_code()), byteCount: cl_executor_size())
    var slots: [Slot] = []
    slots.reserveCapacity(sizes.count)
    var at = pageSize
    for size in sizes {
      slots.append(Slot(local: base + at, address: address + UInt64(at), size: size))
      at += size
    }
    self.slots = slots
    for (i, slot) in slots.enumerated() {
      slot.header.pointee.life = deadManSwitch.tracer
      slot.header.pointee.tracer = deadManSwitch.tracer
      slot.header.pointee.done = address + UInt64(Self.counterOffset)
      let left = 2 * i + 1
      slot.setHeirs(
        left < slots.count ? slots[left].address : 0, left + 1 < slots.count ? slots[left + 1].address : 0)
      if i % Self.mostSlots == Self.mostSlots - 1 { forgetSome() }
    }
  }

  /// Has the first slot's executor told when the tracer dies, which calls this; it tells the others. With `each` each is told, as far
  /// as the kernel's list goes, because they do not all exist at all times.
  public func watch(each: Bool = false) {
    let count = each ? min(slots.count, max(DeadManSwitch.capacity - deadManSwitch.count - 1, 1)) : 1
    for (i, slot) in slots.prefix(count).enumerated() {
      deadManSwitch.insert(slot)
      watched += 1
      if i % Self.mostSlots == Self.mostSlots - 1 { forgetSome() }
    }
  }

  deinit {
    for (i, slot) in slots.prefix(watched).enumerated() {
      deadManSwitch.remove(slot)
      if i % Self.mostSlots == Self.mostSlots - 1 { forgetSome() }
    }
    _ = cl_syscall(Int(__NR_munmap), Int(bitPattern: local), size, 0, 0, 0, 0)
  }

  /// The executor's entry, as the tasks see it.
  public var code: UInt64 { address }

  /// Counts an executor that runs its loaded program because it was set going by other means: ptrace, or a clone.
  public func expectStart() { started &+= 1 }

  /// The same for as many as a program clones.
  public func expectStarts(_ count: Int) { started &+= UInt32(truncatingIfNeeded: count) }

  /// Takes an `expectStart` back: the executor never came to be.
  public func withdrawStart() { started &-= 1 }

  /// Sets a parked executor going on its loaded program.
  public func start(_ slot: Slot) {
    started &+= 1
    cl_store32(slot.lifeWord, deadManSwitch.tracer)
    _ = cl_syscall(Int(__NR_futex), Int(bitPattern: slot.lifeWord), Int(FUTEX_WAKE), 1, 0, 0, 0)
  }

  /// Sets a parked executor going on a program that it does not return from.
  public func startWithoutReturn(_ slot: Slot) {
    start(slot)
    withdrawStart()
  }

  /// Whether every program that was started has ended.
  public var isIdle: Bool { cl_load32(local + Self.counterOffset) == started }

  /// Waits until every program that was started has ended. `check` is called every so many milliseconds meanwhile, and
  /// throws if a task died; `whenSomeEnd` before this thread waits, and whenever some have ended: it may start others.
  public func waitAll(
    checkingEvery interval: Int = 200, _ check: () throws(Failure) -> Void, whenSomeEnd: () throws(Failure) -> Void = {}
  ) throws(Failure) {
    let counter = local + Self.counterOffset
    var timeout = timespec(tv_sec: 0, tv_nsec: interval * 1_000_000)
    while true {
      let done = cl_load32(counter)
      if done == started { return }
      try whenSomeEnd()
      let result = withUnsafeMutablePointer(to: &timeout) {
        cl_syscall(
          Int(__NR_futex), Int(bitPattern: counter), Int(FUTEX_WAIT), Int(done), Int(bitPattern: $0), 0, 0)
      }
      if result == -Int(ETIMEDOUT) { try check() }
    }
  }

  /// Tells every executor, also one that is yet to be born, what it would be told if the tracer died.
  public func dismiss() {
    for slot in slots {
      cl_or32(slot.lifeWord, 0x4000_0000 /* FUTEX_OWNER_DIED */)
      _ = cl_syscall(Int(__NR_futex), Int(bitPattern: slot.lifeWord), Int(FUTEX_WAKE), 1, 0, 0, 0)
    }
  }

  /// Takes the area out of this process's memory; what the tasks see stays.
  public func forgetPages() {
    _ = cl_syscall(Int(__NR_madvise), Int(bitPattern: local), size, 4 /* MADV_DONTNEED */, 0, 0, 0)
  }

  /// The same for an area that is worth it: what is looked at again has to be faulted in again.
  public func forgetSome() {
    if size >= Self.leastForgotten { forgetPages() }
  }
}
