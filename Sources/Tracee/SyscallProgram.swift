import CLinux
import Linux

/// An argument of a program's system call: a value, or the result of an earlier call of the same program.
public struct Argument: ExpressibleByIntegerLiteral, Sendable {
  let value: UInt64
  let isResult: Bool

  init(value: UInt64, isResult: Bool) {
    self.value = value
    self.isResult = isResult
  }

  public init(integerLiteral value: Int64) { self.init(value: UInt64(bitPattern: value), isResult: false) }

  /// A number of any width, sign-extended.
  public init(_ value: some BinaryInteger) {
    self.init(value: UInt64(truncatingIfNeeded: value), isResult: false)
  }

  public static func result(_ call: SyscallProgram.Call) -> Argument {
    Argument(value: UInt64(call.index), isResult: true)
  }
}

/// A list of system calls that a task's executor runs in one go, with the data that they read and write
/// (`Slot.load`, `ExecutorArea.start`).
public struct SyscallProgram {
  /// A call's place in its program; its result can be an argument of later calls.
  public struct Call: Sendable, Equatable {
    let index: Int
  }

  /// A piece of the program's data area that calls write to.
  public struct Buffer: Sendable {
    let offset: Int
    public let count: Int
    /// Where the task sees it.
    public let address: UInt64
  }

  /// What a call is for: named when it fails.
  struct Purpose {
    let text: StaticString
    let detail: UInt64
  }

  private(set) var records: [syscall_record] = []
  private(set) var purposes: [Purpose] = []
  private(set) var data: [UInt8] = []
  private let dataAddress: UInt64
  let recordCapacity: Int
  let dataCapacity: Int

  /// An empty program for this slot.
  public init(for slot: Slot) {
    dataAddress = slot.dataAddress
    recordCapacity = slot.recordCapacity
    dataCapacity = slot.dataCapacity
  }

  /// Where the slot's data lie in the task: no other slot's do.
  public var slotAddress: UInt64 { dataAddress }

  public var isEmpty: Bool { records.isEmpty }
  public var count: Int { records.count }

  /// Whether so many more calls and bytes of data fit.
  public func hasRoom(calls: Int, bytes: Int = 0) -> Bool {
    records.count + calls <= recordCapacity && data.count + bytes + 16 * calls <= dataCapacity
  }

  /// Appends a call. A failure stops the program unless `mayFail`.
  @discardableResult
  public mutating func call(
    _ number: Int32, _ a: Argument = 0, _ b: Argument = 0, _ c: Argument = 0, _ d: Argument = 0,
    _ e: Argument = 0, _ f: Argument = 0, mayFail: Bool = false, expect: Int64? = nil,
    for purpose: StaticString = "", _ detail: UInt64 = 0
  ) -> Call {
    var record = syscall_record()
    record.number = UInt32(number)
    record.args = (a.value, b.value, c.value, d.value, e.value, f.value)
    var flags: Int32 = 0
    if a.isResult { flags |= 1 }
    if b.isResult { flags |= 2 }
    if c.isResult { flags |= 4 }
    if d.isResult { flags |= 8 }
    if e.isResult { flags |= 16 }
    if f.isResult { flags |= 32 }
    if mayFail { flags |= Int32(EXECUTOR_MAY_FAIL) }
    if let expect {
      flags |= Int32(EXECUTOR_EXPECT)
      record.result = expect
    }
    record.flags = UInt32(flags)
    records.append(record)
    purposes.append(Purpose(text: purpose, detail: detail))
    return Call(index: records.count - 1)
  }

  /// Appends a clone3; the child parks in the slot that its stack pointer names.
  @discardableResult
  public mutating func clone(
    _ arguments: cl_clone_args, for purpose: StaticString, _ detail: UInt64
  ) -> Call {
    let address = place(arguments, alignment: 8)
    let size = MemoryLayout<cl_clone_args>.size
    let made = call(__NR_clone3, Argument(address), Argument(size), for: purpose, detail)
    records[made.index].flags |= UInt32(EXECUTOR_CLONE)
    return made
  }

  /// Copies a plain value into the data area: its address in the task.
  public mutating func place<T: BitwiseCopyable>(_ value: T, alignment: Int = MemoryLayout<T>.alignment)
    -> UInt64
  {
    var value = value
    return withUnsafeBytes(of: &value) { place($0, alignment: alignment) }
  }

  /// Copies bytes into the data area: their address in the task.
  public mutating func place(_ bytes: UnsafeRawBufferPointer, alignment: Int = 8) -> UInt64 {
    align(alignment)
    let offset = data.count
    data.append(contentsOf: bytes)
    return dataAddress + UInt64(offset)
  }

  public mutating func place(_ bytes: [UInt8], alignment: Int = 8) -> UInt64 {
    bytes.withUnsafeBytes { place($0, alignment: alignment) }
  }

  /// Copies a path or name, with the final NUL.
  public mutating func place(path: [UInt8]) -> UInt64 {
    let address = place(path, alignment: 1)
    data.append(0)
    return address
  }

  /// Room for what a call writes.
  public mutating func reserve(_ count: Int, alignment: Int = 8) -> Buffer {
    align(alignment)
    let offset = data.count
    data.append(contentsOf: repeatElement(0, count: count))
    return Buffer(offset: offset, count: count, address: dataAddress + UInt64(offset))
  }

  private mutating func align(_ alignment: Int) {
    while data.count % alignment != 0 { data.append(0) }
  }

  /// The call that a failed program stopped at, in words.
  func failure(at index: Int, result: Int64, task: String) -> Failure {
    guard index < records.count else {
      return Failure("\(task): its program stopped at call \(index) of \(records.count)")
    }
    let purpose = purposes[index]
    var words = task
    if purpose.text.utf8CodeUnitCount > 0 { words += ": \(purpose.text)" }
    if purpose.detail != 0 {
      words += purpose.detail > 0xffff_ffff ? " 0x\(String(purpose.detail, radix: 16))" : " \(purpose.detail)"
    }
    let r = records[index]
    if Int32(r.number) == __NR_openat2, result < 0 {
      return Failure(
        "\(words): \(path(at: r.args.1)): openat2", .init(rawValue: Int32(-result)),
        advice: "The tree needs it as it was at the dump, reached without any symbolic link; put it back.")
    }
    func show(_ v: UInt64) -> String {
      let signed = Int64(bitPattern: v)
      return (-4096...65535).contains(signed) ? "\(signed)" : "0x" + String(v, radix: 16)
    }
    let a = r.args
    words +=
      ": \(syscallName(r.number))(\(show(a.0)), \(show(a.1)), \(show(a.2)), \(show(a.3)), \(show(a.4)), \(show(a.5)))"
    if result < 0, result >= -4095 {
      return Failure(words, .init(rawValue: Int32(-result)))
    }
    return Failure("\(words) returned \(result)")
  }
}

extension SyscallProgram {
  /// What was placed as a path.
  private func path(at address: UInt64) -> String {
    guard address >= dataAddress, address - dataAddress < UInt64(data.count) else { return "?" }
    return String(decoding: data[Int(address - dataAddress)...].prefix { $0 != 0 }, as: UTF8.self)
  }
}

/// The names of the calls that programs make, for messages.
func syscallName(_ number: UInt32) -> String {
  switch Int32(number) {
  case __NR_mmap: "mmap"
  case __NR_munmap: "munmap"
  case __NR_mprotect: "mprotect"
  case __NR_mremap: "mremap"
  case __NR_madvise: "madvise"
  case __NR_mlock2: "mlock2"
  case __NR_brk: "brk"
  case __NR_clone3: "clone3"
  case __NR_prctl: "prctl"
  case __NR_arch_prctl: "arch_prctl"
  case __NR_preadv: "preadv"
  case __NR_pread64: "pread64"
  case __NR_pwritev: "pwritev"
  case __NR_openat: "openat"
  case __NR_close: "close"
  case __NR_close_range: "close_range"
  case __NR_dup3: "dup3"
  case __NR_fcntl: "fcntl"
  case __NR_pidfd_getfd: "pidfd_getfd"
  case __NR_rt_sigaction: "rt_sigaction"
  case __NR_rt_sigqueueinfo: "rt_sigqueueinfo"
  case __NR_rt_tgsigqueueinfo: "rt_tgsigqueueinfo"
  case __NR_sigaltstack: "sigaltstack"
  case __NR_setitimer: "setitimer"
  case __NR_timer_create: "timer_create"
  case __NR_timer_settime: "timer_settime"
  case __NR_setsid: "setsid"
  case __NR_setpgid: "setpgid"
  case __NR_setresuid: "setresuid"
  case __NR_setresgid: "setresgid"
  case __NR_setgroups: "setgroups"
  case __NR_capset: "capset"
  case __NR_capget: "capget"
  case __NR_prlimit64: "prlimit64"
  case __NR_personality: "personality"
  case __NR_chdir: "chdir"
  case __NR_fchdir: "fchdir"
  case __NR_chroot: "chroot"
  case __NR_sched_setattr: "sched_setattr"
  case __NR_sched_setaffinity: "sched_setaffinity"
  case __NR_ioprio_set: "ioprio_set"
  case __NR_membarrier: "membarrier"
  case __NR_seccomp: "seccomp"
  case __NR_set_robust_list: "set_robust_list"
  case __NR_rseq: "rseq"
  case __NR_set_tid_address: "set_tid_address"
  case __NR_epoll_ctl: "epoll_ctl"
  case __NR_lseek: "lseek"
  case __NR_wait4: "wait4"
  case __NR_waitid: "waitid"
  case __NR_socketpair: "socketpair"
  case __NR_recvmsg: "recvmsg"
  case __NR_exit: "exit"
  case __NR_exit_group: "exit_group"
  case __NR_kill: "kill"
  default: "syscall_\(number)"
  }
}
