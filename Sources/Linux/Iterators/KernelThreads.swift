import SystemPackage

/// What the kernel itself has noted of a thread (include/linux/sched.h: struct task_struct).
public struct KernelThread: Sendable {
  fileprivate let words: [UInt64]

  /// Of its restartable sequences (man 2 rseq); the address is 0 if it has none.
  public var rseq: (address: UInt64, size: UInt32, signature: UInt32) {
    (words[2], UInt32(truncatingIfNeeded: words[3]), UInt32(truncatingIfNeeded: words[4]))
  }

  /// What it has the kernel clear at its exit (man 2 set_tid_address), and its robust futex list (man 2 set_robust_list).
  public var clearTID: UInt64 { words[5] }
  public var robustList: UInt64 { words[6] }
  /// Its alternate signal stack, with the flags that were asked for (man 2 sigaltstack).
  public var alternateStack: (address: UInt64, size: UInt64, flags: UInt32) {
    (words[7], words[8], UInt32(truncatingIfNeeded: words[9]))
  }
  /// At most 15 bytes.
  public var name: [UInt8] { withUnsafeBytes(of: (words[10], words[11])) { Array($0.prefix(15).prefix { $0 != 0 }) } }

  /// Whether it has whatever else of its own as another thread, but where and how it is scheduled, of which this is a part only. Flags
  /// that come and go count too.
  public func isLike(_ other: KernelThread) -> Bool { words[Self.state...] == other.words[Self.state...] }

  /// The TID, and the level of its PID namespace; what is its own; from ``state`` on what can be asked of one that has the same; and from
  /// ``common`` on what threads may have in common: credentials, namespaces, descriptors, directories, seccomp, no_new_privs and its like,
  /// and whether it handles system calls itself.
  fileprivate static let fields: [IteratorProgram.Field] = [
    .member("pid"), .member("thread_pid", "level"),
    .member([["rseq", "usrptr"], ["rseq"]]), .member([["rseq", "len"], ["rseq_len"]]), .member([["rseq", "sig"], ["rseq_sig"]]),
    .member("clear_child_tid"), .member("robust_list"),
    .member("sas_ss_sp"), .member("sas_ss_size"), .member("sas_ss_flags"),
    .bytes(of: "comm", offset: 0), .bytes(of: "comm", offset: 8),
    .member("flags"), .member("thread_info", "flags"), .member("policy"), .member("static_prio"), .member("rt_priority"),
    .member("timer_slack_ns"), .member("pdeath_signal"),
    // Without block devices there is none.
    .memberIfAny("io_context"),
    .member("real_cred"), .member("cred"), .member("nsproxy"), .member("files"), .member("fs"), .member("seccomp", "mode"),
    .member("seccomp", "filter"), .member("atomic_flags"), .member("thread_info", "syscall_work"),
    .member("syscall_dispatch", "selector"), .member("syscall_dispatch", "offset"), .member("syscall_dispatch", "len"),
  ]
  fileprivate static let state = 12
  fileprivate static let common = 20
}

/// The threads of a process: which of them have nothing of their own where they may have the same.
public struct KernelThreads: Sendable {
  /// By their TIDs.
  private let threads: [Int32: KernelThread]

  private static let iterator = KernelIterator("task", KernelThread.fields, of: ("task_struct", 8))

  /// To look at fewer one by one takes less than to get an iterator ready.
  public static let many = 128

  /// Whether there is an iterator, which takes a millisecond or two to find out.
  public static var canBeAsked: Bool { iterator != nil }

  /// `nil`: they have to be looked at one after the other.
  public init?(of pid: Int32) {
    guard let words = try? Self.iterator?.records(of: pid, isProcess: true) else { return nil }
    let size = KernelThread.fields.count
    var threads: [Int32: KernelThread] = [:]
    threads.reserveCapacity(words.count / size)
    for at in stride(from: 0, to: words.count, by: size) {
      // Elsewhere than in the outermost namespace it has other numbers for others.
      guard words[at + 1] == 0 else { return nil }
      threads[Int32(truncatingIfNeeded: words[at])] = KernelThread(words: Array(words[at..<at + size]))
    }
    self.threads = threads
  }

  /// A thread that has in common with another what it can; `nil` if it has not, or nothing is known of one of them.
  public func thread(_ tid: Int32, like other: Int32) -> KernelThread? {
    guard let thread = threads[tid], let other = threads[other],
      thread.words[KernelThread.common...] == other.words[KernelThread.common...]
    else { return nil }
    return thread
  }
}
