/// A process or thread ID as seen from one PID namespace.
///
/// 0 stands for a task that cannot be seen from that namespace, as `getsid(2)` and `NSsid:` show it.
public struct PID: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
  /// The number the kernel uses, 1 up to `pid_max` - 1, or 0 for "not visible here".
  public var rawValue: Int32

  public init(rawValue: Int32) { self.rawValue = rawValue }
  public init(_ rawValue: Int32) { self.rawValue = rawValue }

  /// The ID of a task that cannot be seen from the namespace.
  public static let invisible = PID(0)
  /// The ID of a namespace's init.
  public static let one = PID(1)

  public static func < (left: PID, right: PID) -> Bool { left.rawValue < right.rawValue }
  public var description: String { "\(rawValue)" }
}

/// Names a PID namespace: its inode number, or the number an image gives it.
public struct PIDNamespaceID: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
  public var rawValue: UInt32
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  public init(_ rawValue: UInt32) { self.rawValue = rawValue }
  public var description: String { "pid:[\(rawValue)]" }
}

/// Names a user namespace: its inode number, or the number an image gives it.
public struct UserNamespaceID: RawRepresentable, Hashable, Sendable {
  public var rawValue: UInt32
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  public init(_ rawValue: UInt32) { self.rawValue = rawValue }
}

/// Names a kernel object that several tasks may hold (a descriptor table, an address space …).
///
/// Two tasks with equal IDs share the object. IDs of different kinds of object are unrelated.
public struct ShareGroupID: RawRepresentable, Hashable, Sendable {
  public var rawValue: UInt32
  public init(rawValue: UInt32) { self.rawValue = rawValue }
  public init(_ rawValue: UInt32) { self.rawValue = rawValue }
}

/// The place of a task in `RecordedTree.tasks`.
public struct TaskID: Hashable, Comparable, Sendable {
  public var index: Int
  public init(_ index: Int) { self.index = index }
  public static func < (left: TaskID, right: TaskID) -> Bool { left.index < right.index }
}

/// The place of a helper in `ForkSchedule.helpers`.
public struct HelperID: Hashable, Comparable, Sendable {
  public var index: Int
  public init(_ index: Int) { self.index = index }
  public static func < (left: HelperID, right: HelperID) -> Bool { left.index < right.index }
}

/// A signal number; 0 is "no signal" (`man 7 signal`).
public struct SignalNumber: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
  public var rawValue: Int32
  public init(rawValue: Int32) { self.rawValue = rawValue }
  public init(_ rawValue: Int32) { self.rawValue = rawValue }

  /// The parent hears nothing of the task's end.
  public static let none = SignalNumber(0)
  /// SIGCHLD, what `fork(2)` asks for and what every orphan is given (`kernel/exit.c: reparent_leader`).
  public static let child = SignalNumber(17)

  public var description: String { "signal \(rawValue)" }
}

/// The status `wait(2)` would hand to a zombie's parent, encoded as the kernel encodes it.
public struct WaitStatus: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
  public var rawValue: Int32
  public init(rawValue: Int32) { self.rawValue = rawValue }

  /// The status of a task that called `_exit(code)`.
  public init(exitCode: UInt8) { rawValue = Int32(exitCode) << 8 }

  /// The status of a task that a signal ended.
  public init(killedBy signal: SignalNumber, dumpedCore: Bool = false) {
    rawValue = (signal.rawValue & 0x7f) | (dumpedCore ? 0x80 : 0)
  }

  /// What the task passed to `_exit(2)`, or nil where a signal ended it.
  public var exitCode: UInt8? { rawValue & 0x7f == 0 ? UInt8(truncatingIfNeeded: rawValue >> 8) : nil }
  /// The signal that ended the task, or nil where it exited by itself.
  public var signal: SignalNumber? { rawValue & 0x7f == 0 ? nil : SignalNumber(rawValue & 0x7f) }
  /// Whether the signal left a core dump.
  public var dumpedCore: Bool { rawValue & 0x80 != 0 }

  public var description: String {
    if let exitCode { return "code \(exitCode)" }
    return "signal \(rawValue & 0x7f)" + (dumpedCore ? " with core" : "")
  }
}
