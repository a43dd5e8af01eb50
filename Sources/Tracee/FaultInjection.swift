import CLinux
import Glibc
import Synchronization
import SystemPackage

/// Has one program that is sent to a task fail, to find out what a failure leaves behind: for tests only.
///
/// The environment variable `SWIFT_RESTORE_FAULT` says which: `7:ENOSPC` is the seventh, whose first call fails with ENOSPC and
/// is not made; `7.2:ENOSPC` has it make two calls before; where it has fewer the last one fails. A call that ptrace makes counts
/// as a program, and so does what the tracer copies into a task. What cannot be read has the first one fail with EINVAL.
public enum FaultInjection {
  public struct Fault: Sendable {
    var program: Int
    public var call: Int
    public var errno: Errno
  }

  private static let plan: Fault? = {
    guard let text = getenv("SWIFT_RESTORE_FAULT") else { return nil }
    return parse(String(cString: text)) ?? Fault(program: 1, call: 0, errno: .invalidArgument)
  }()

  /// How many programs were sent. The companion loads some of a larger tree: which is the N-th, may change there.
  private static let sent = Atomic(0)

  /// Counts a program that is about to be sent; the fault if it is its turn.
  public static func next() -> Fault? {
    guard let plan else { return nil }
    return sent.add(1, ordering: .relaxed).newValue == plan.program ? plan : nil
  }

  static func parse(_ text: String) -> Fault? {
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    guard parts.count == 2 else { return nil }
    let numbers = parts[0].split(separator: ".", omittingEmptySubsequences: false).map { Int($0) ?? -1 }
    guard let program = numbers.first, program > 0, numbers.count < 3, numbers.allSatisfy({ $0 >= 0 }) else { return nil }
    let errno = (Int32(1)...133).first { number in
      strerrorname_np(number).map { String(cString: $0) == parts[1] } ?? false
    }
    guard let errno else { return nil }
    return Fault(program: program, call: numbers.count == 2 ? numbers[1] : 0, errno: Errno(rawValue: errno))
  }
}
