import CLinux
import Linux

/// The memory that one executor shares with the tracer: its header, a program, the program's data.
public struct Slot: @unchecked Sendable {
  /// Here, and as the task sees it. One thread of the tool uses a slot at a time.
  let local: UnsafeMutableRawPointer
  public let address: UInt64
  public let size: Int

  private static let recordsOffset = Int(EXECUTOR_RECORDS_OFFSET)
  // The layout is C's (CLinux.h); a field that had no offset would not compile as a field.
  private static let lifeOffset = MemoryLayout<executor_slot>.offset(of: \.life) ?? 8
  private static let cleanupOffset = MemoryLayout<executor_slot>.offset(of: \.cleanup) ?? 48
  private static let homeOffset = MemoryLayout<executor_slot>.offset(of: \.home_code) ?? 432
  private static let maskOffset = MemoryLayout<executor_slot>.offset(of: \.home_signal_mask) ?? 696
  private static let recordSize = MemoryLayout<syscall_record>.size

  /// How much larger a slot must be for so many calls more, in bytes of whole pages.
  public static func bytes(calls: Int) -> Int { Int(pageAlignUp(UInt64(3 * calls * recordSize))) }

  /// A third of the room is for calls, the rest for their data.
  var recordCapacity: Int { (size - Self.recordsOffset) / 3 / Self.recordSize }
  private var dataOffset: Int { Self.recordsOffset + recordCapacity * Self.recordSize }
  var dataAddress: UInt64 { address + UInt64(dataOffset) }
  public var dataCapacity: Int { size - dataOffset }

  var header: UnsafeMutablePointer<executor_slot> { local.assumingMemoryBound(to: executor_slot.self) }
  var lifeWord: UnsafeMutableRawPointer { local + Self.lifeOffset }

  /// Copies a program in. The executor must be parked, or not started yet.
  public func load(_ program: borrowing SyscallProgram) {
    // Whoever composes programs asks for room first (SyscallProgram.hasRoom): more would run into the next slot.
    precondition(program.count <= recordCapacity && program.data.count <= dataCapacity, "a program larger than its slot")
    program.records.withUnsafeBytes {
      (local + Self.recordsOffset).copyMemory(
        from: $0.baseAddress ?? UnsafeRawPointer(local), byteCount: $0.count)
    }
    program.data.withUnsafeBytes {
      (local + dataOffset).copyMemory(from: $0.baseAddress ?? UnsafeRawPointer(local), byteCount: $0.count)
    }
    header.pointee.count = UInt32(program.count)
    header.pointee.finished = 0
    header.pointee.first = 0
    if program.count > 0, let fault = FaultInjection.next() { fail(fault, of: program.count) }
  }

  /// The program ends before the call that is to fail, which looks as if it had.
  private func fail(_ fault: FaultInjection.Fault, of count: Int) {
    let call = min(fault.call, count - 1)
    header.pointee.count = UInt32(call)
    record(call).pointee.result = -Int64(fault.errno.rawValue)
  }

  /// Has the executor begin at the call that stopped its program, when it is started again.
  public func resume() { header.pointee.first = header.pointee.finished }

  /// The call that stopped the program that ran last, and what it returned; `nil` if nothing did.
  public func stop(of program: borrowing SyscallProgram) -> (call: SyscallProgram.Call, result: Int64)? {
    let finished = Int(header.pointee.finished)
    return finished < program.count ? (SyscallProgram.Call(index: finished), record(finished).pointee.result) : nil
  }

  /// Makes the slot as new for another executor; the one that it had has ended.
  public func reset() {
    cl_store32(lifeWord, header.pointee.tracer)
    header.pointee.finished = 0
  }

  /// Whether the executor waits for its next program.
  public var isParked: Bool { cl_load32(lifeWord) & 0x8000_0000 != 0 }

  private func record(_ index: Int) -> UnsafeMutablePointer<syscall_record> {
    (local + Self.recordsOffset + index * Self.recordSize).assumingMemoryBound(to: syscall_record.self)
  }

  /// What a call of the program that ran last returned: negative is -errno.
  public func result(_ call: SyscallProgram.Call) -> Int64 { record(call.index).pointee.result }

  /// What the program that ran last wrote, valid until the slot's next program.
  public func bytes(_ buffer: SyscallProgram.Buffer) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: local + dataOffset + buffer.offset, count: buffer.count)
  }

  public func value<T: BitwiseCopyable>(_ buffer: SyscallProgram.Buffer, as type: T.Type = T.self) -> T {
    bytes(buffer).loadUnaligned(as: T.self)
  }

  /// Throws what stopped the program, if something did.
  public func check(_ program: borrowing SyscallProgram, task: @autoclosure () -> String) throws(Failure) {
    let finished = Int(header.pointee.finished)
    if finished == program.count { return }
    throw program.failure(
      at: finished, result: finished < program.count ? record(finished).pointee.result : 0, task: task())
  }

  /// Where the thread goes if the tracer dies while its executor is in it.
  func setHome(_ registers: Registers, signalMask: UInt64) {
    header.pointee.home_signal_mask = signalMask
    let maskAddress = address + UInt64(Self.maskOffset)
    let codeAddress = address + UInt64(Self.homeOffset)
    let code = registers.homeCode(at: codeAddress, maskAddress: maskAddress)
    code.withUnsafeBytes {
      (local + Self.homeOffset).copyMemory(
        from: $0.baseAddress ?? UnsafeRawPointer(local), byteCount: $0.count)
    }
    header.pointee.home = codeAddress
  }

  /// The calls to make before going home, such as closing a descriptor that the tracer had the task open.
  public func setCleanup(_ calls: [(number: Int32, argument: UInt64)]) {
    let first = (local + Self.cleanupOffset).assumingMemoryBound(to: syscall_record.self)
    header.pointee.cleanup_count = 0
    for (i, call) in calls.prefix(Int(EXECUTOR_CLEANUP_RECORDS) - 2).enumerated() {
      first[i] = syscall_record()
      first[i].number = UInt32(call.number)
      first[i].args.0 = call.argument
    }
    header.pointee.cleanup_count = UInt32(calls.count)
    appendHeirs()
  }

  /// Executors of the same area that are not in the tracer's robust list learn of its death from this one.
  func setHeirs(_ a: UInt64, _ b: UInt64) {
    header.pointee.heirs = (a, b)
    header.pointee.cleanup_count = 0
    appendHeirs()
  }

  private func appendHeirs() {
    let first = (local + Self.cleanupOffset).assumingMemoryBound(to: syscall_record.self)
    for heir in [header.pointee.heirs.0, header.pointee.heirs.1] where heir != 0 {
      let life = heir + UInt64(Self.lifeOffset)
      var record = syscall_record()
      record.number = UInt32(__NR_futex)
      // FUTEX_WAKE_OP: set FUTEX_OWNER_DIED in the heir's word, then wake it (man 2 futex).
      let operation = (UInt64(FUTEX_OP_OR | FUTEX_OP_OPARG_SHIFT) << 28) | (30 << 12)
      record.args = (life, UInt64(FUTEX_WAKE_OP), 1, 0, life, operation)
      first[Int(header.pointee.cleanup_count)] = record
      header.pointee.cleanup_count += 1
    }
  }
}
