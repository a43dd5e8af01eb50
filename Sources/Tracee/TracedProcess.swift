import CLinux
import Glibc
import Linux
import SystemPackage

/// A process of a live program, all threads stopped, and the way into it: an executor area that exists only
/// between `open` and `close`.
public final class TracedProcess {
  public let pid: Int32
  /// The leader first.
  public var threads: [TracedThread]
  public private(set) var area: ExecutorArea?
  private var areaAddress: UInt64 = 0
  private var areaSize = 0
  private var sizes: [Int] = []
  /// The call that maps the area was begun.
  private var isOpening = false
  private let vdso: UInt64
  private let syscallInstruction: UInt64
  private var foothold: Foothold?
  /// Places of the threads that have a slot, in the order of these: the leader first.
  private var visitors: [Int] = []
  /// How many of these have had their executors started.
  private var entered = 0

  /// `vdso` is where the process has its vDSO mapped.
  public init(pid: Int32, threads: [TracedThread], vdso: UInt64) throws(Failure) {
    guard let offset = VDSO.syscallOffset else {
      throw Failure("this kernel's vDSO has no syscall instruction", advice: "Boot without vdso=0.")
    }
    self.pid = pid
    self.threads = threads
    self.vdso = vdso
    syscallInstruction = vdso + offset
  }

  /// Bytes of a thread's slot: the leader's programs are the larger ones.
  private static let leaderSlot = 16 * pageSize
  private static let threadSlot = 2 * pageSize
  /// Of the slot for a copy, behind those of the threads.
  private static let copySlot = 16 * pageSize
  private var hasCopySlot = false

  /// Maps an area into the process and here. The leader's slot has room for so many calls more than every leader makes.
  public func open(_ deadManSwitch: DeadManSwitch, calls: Int = 0) throws(Failure) {
    try beginOpen(calls: calls)
    try awaitOpen()
    try share(deadManSwitch)
    watch()
  }

  /// The first part of ``open(_:calls:)``, which many processes can go through at the same time: begin all, advance all, await all.
  /// With `copy` there is room for a ``TaskCopy``'s executor. The threads at the `places` get a slot, the leader among them; all, if
  /// these are not given. Nobody else may: who has no executor tells no other of the tracer's death.
  public func beginOpen(calls: Int = 0, copy: Bool = false, for places: [Int]? = nil) throws(Failure) {
    visitors = places ?? Array(threads.indices)
    sizes = visitors.map { $0 == 0 ? Self.leaderSlot + Slot.bytes(calls: calls) : Self.threadSlot }
    hasCopySlot = copy
    if copy { sizes.append(Self.copySlot) }
    let size = ExecutorArea.size(slots: sizes)
    let leader = threads[0]
    try about("task \(pid): mapping the executor") { () throws(Errno) in
      foothold = try leader.makeFoothold(in: pid, vdso: vdso)
      try leader.beginCall(
        at: foothold?.call ?? syscallInstruction, __NR_mmap, 0, UInt64(size), UInt64(PROT_READ | PROT_WRITE | PROT_EXEC),
        UInt64(MAP_SHARED | MAP_ANONYMOUS), UInt64.max, 0)
    }
    isOpening = true
  }

  public func advanceOpen() throws(Failure) {
    do throws(Errno) {
      try threads[0].advanceCall()
    } catch {
      isOpening = false
      throw Failure("task \(pid): mapping the executor", error)
    }
  }

  private func awaitMapping() throws(Errno) {
    isOpening = false
    areaAddress = try threads[0].finishCall()
    areaSize = ExecutorArea.size(slots: sizes)
  }

  public func awaitOpen() throws(Failure) {
    do throws(Errno) {
      try awaitMapping()
    } catch {
      let failure = Failure("task \(pid): mapping the executor", error)
      guard error == .permissionDenied else { throw failure }
      throw failure.advised("The tree runs on. A program that allows itself no new code (man 2 PR_SET_MDWE) cannot be dumped yet (mdwe).")
    }
  }

  /// The second part: maps the area here. Whoever has time may do it, and load the first programs.
  public func share(_ deadManSwitch: DeadManSwitch) throws(Failure) {
    let (address, size) = (areaAddress, areaSize)
    let path =
      "/proc/\(pid)/map_files/\(String(address, radix: 16))-\(String(address + UInt64(size), radix: 16))"
    area = try about(
      "task \(pid): sharing the executor's memory (\(path))",
      advice: "This needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE; run as root."
    ) { () throws(Errno) -> ExecutorArea in
      let memory = try Descriptor.open(path, O_RDWR)
      return try ExecutorArea(
        memory: memory.rawValue, address: address, slots: sizes, deadManSwitch: deadManSwitch)
    }
    sizes = []
  }

  /// The last part, the tracer's: what is executed in the area hears of its death.
  public func watch() { area?.watch(each: true) }

  /// Has the threads of these slots run the programs that are loaded there, then park. Those before them have entered.
  public func enter(_ range: Range<Int>) throws(Failure) {
    guard let area else { return }
    for index in range {
      let thread = threads[visitors[index]]
      try about("task \(pid): starting the executor of thread \(thread.tid)") { () throws(Errno) in
        try thread.enter(area, area.slots[index])
      }
      entered += 1
    }
  }

  /// Waits for the programs of all threads.
  public func waitAll() throws(Failure) {
    try area?.waitAll { () throws(Failure) in
      for thread in threads where !isAlive(thread.tid) {
        throw Failure("task \(thread.tid) died while it was being dumped")
      }
    }
  }

  private func isAlive(_ tid: Int32) -> Bool {
    var status: Int32 = 0
    // A parked thread has no stop to tell of: whatever comes here is its end.
    let result = withUnsafeMutablePointer(to: &status) {
      cl_syscall(Int(__NR_wait4), Int(tid), Int(bitPattern: $0), Int(WNOHANG) | 0x4000_0000, 0, 0, 0)
    }
    return result == 0
  }

  /// Sets the leader going on a program.
  public func start(_ program: borrowing SyscallProgram) {
    guard let area, let slot = area.slots.first else { return }
    slot.load(program)
    area.start(slot)
  }

  /// Waits for the program that was started last.
  public func finish(_ program: borrowing SyscallProgram) throws(Failure) {
    guard let slot = area?.slots.first else { return }
    try waitAll()
    try slot.check(program, task: "task \(pid)")
  }

  /// Whether all programs that were started have ended.
  public var isIdle: Bool { area?.isIdle ?? true }

  // MARK: Copies

  /// Sets the leader going on a fork of itself; ``finishCopy(_:)`` waits for it.
  public func beginCopy() -> SyscallProgram? {
    guard hasCopySlot, let area, let leader = area.slots.first, let slot = area.slots.last else { return nil }
    var arguments = cl_clone_args()
    // The copy's stack pointer is its slot; the size only has to be something.
    arguments.stack = slot.address - UInt64(pageSize)
    arguments.stack_size = UInt64(pageSize)
    var program = SyscallProgram(for: leader)
    program.clone(arguments, for: "making a copy of itself", 0)
    area.expectStart()
    start(program)
    return program
  }

  /// The copy, parked; `nil` if the kernel made none, such as for want of processes. `sharesNumbers`: the process lives in the
  /// tracer's PID namespace.
  public func finishCopy(_ program: borrowing SyscallProgram, sharesNumbers: Bool) throws(Failure) -> TaskCopy? {
    guard let area, let leader = area.slots.first, let slot = area.slots.last else { return nil }
    var failed = leader.isParked && leader.stop(of: program) != nil
    if !failed {
      try area.waitAll(checkingEvery: 20) { () throws(Failure) in
        failed = leader.isParked && leader.stop(of: program) != nil
        if failed { area.withdrawStart() }
      }
    } else {
      area.withdrawStart()
      try waitAll()
    }
    if failed { return nil }
    let inner = Int32(truncatingIfNeeded: leader.result(SyscallProgram.Call(index: 0)))
    return TaskCopy(of: pid, pid: sharesNumbers ? inner : try child(knownAs: inner), innerPID: inner, area, slot)
  }

  /// The child of the leader that has this number in the process's own PID namespace.
  private func child(knownAs number: Int32) throws(Failure) -> Int32 {
    let buffer = ReadBuffer()
    let found = try about("task \(pid): looking for its copy") { () throws(Errno) -> Int32? in
      for child in try ProcDirectory(pid: pid).children(of: pid, buffer).reversed()
      where ProcStatus(try ProcDirectory(pid: child).read("status", buffer)).nsTgid.last == number { return child }
      return nil
    }
    guard let found else { throw Failure("task \(pid): its copy \(number) is not among its children") }
    return found
  }

  /// Takes the threads out of their executors and unmaps the area; they are stopped, as they were found.
  /// After a failure it does as much as it can.
  public func close() {
    if isOpening { try? awaitMapping() }
    // An error here says that the thread was killed meanwhile.
    for place in visitors.prefix(entered) { try? threads[place].recall() }
    for place in visitors.prefix(entered) { try? threads[place].awaitRecall() }
    entered = 0
    // Nobody is in the area any more when the switch lets go of it.
    // Heirs go before those who would tell them of the tracer's end.
    for thread in threads.reversed() { try? thread.goHome() }
    area = nil
    guard areaSize > 0, let leader = threads.first else { return }
    for _ in 0..<2 {
      // What fails once for want of something may work the second time; a thread that was killed needs no unmapping.
      do throws(Errno) {
        _ = try leader.call(
          at: foothold?.unmap ?? syscallInstruction, __NR_munmap, areaAddress, UInt64(areaSize))
        break
      } catch {}
    }
    areaSize = 0
  }

  public func detach() {
    for thread in threads { thread.detach() }
  }
}
