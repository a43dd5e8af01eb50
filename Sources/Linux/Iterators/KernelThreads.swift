import SystemPackage

/// What the kernel itself has noted of the threads of a process: whether one has anything of its own where most have the same.
public struct KernelThreads: Sendable {
  /// By their TIDs.
  private let threads: [Int32: [UInt64]]

  /// The TID, and the level of its PID namespace (include/linux/sched.h: struct task_struct); behind those what threads may have in common:
  /// credentials, namespaces, descriptors, directories, seccomp, no_new_privs and its like.
  private static let fields: [IteratorProgram.Field] = [
    .member("pid"), .member("thread_pid", "level"), .member("real_cred"), .member("cred"), .member("nsproxy"), .member("files"),
    .member("fs"), .member("seccomp", "mode"), .member("seccomp", "filter"), .member("atomic_flags"),
  ]

  private static let iterator = KernelIterator("task", fields, of: ("task_struct", 8))

  /// To look at fewer one by one takes less than to get an iterator ready.
  public static let many = 128

  /// Whether there is an iterator, which takes a millisecond or two to find out.
  public static var canBeAsked: Bool { iterator != nil }

  /// `nil`: they have to be looked at one after the other.
  public init?(of pid: Int32) {
    guard let words = try? Self.iterator?.records(of: pid, isProcess: true) else { return nil }
    let size = Self.fields.count
    var threads: [Int32: [UInt64]] = [:]
    threads.reserveCapacity(words.count / size)
    for at in stride(from: 0, to: words.count, by: size) {
      // Elsewhere than in the outermost namespace it has other numbers for others.
      guard words[at + 1] == 0 else { return nil }
      threads[Int32(truncatingIfNeeded: words[at])] = Array(words[at + 2..<at + size])
    }
    self.threads = threads
  }

  /// Whether two threads have in common what they can.
  public func areAlike(_ one: Int32, _ other: Int32) -> Bool {
    guard let first = threads[one], let second = threads[other] else { return false }
    return first == second
  }
}
