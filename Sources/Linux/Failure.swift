import CLinux
import Glibc
import SystemPackage

/// Why a dump or a restore cannot go on: what went wrong with which object, and what the user can do.
public struct Failure: Error, Equatable, Sendable, CustomStringConvertible {
  /// One line: the task, the object, the system call in words and the errno's name.
  public var cause: String
  /// One line: what the user can do about it. Empty if there is nothing to be said.
  public var advice: String
  /// The kernel's error, where one was at the bottom of it.
  public var errno: Errno?

  public init(_ cause: String, advice: String = "", errno: Errno? = nil) {
    self.cause = cause
    self.advice = advice
    self.errno = errno
  }

  /// A system call that failed: "`doing`: ENOENT (No such file or directory)".
  public init(_ doing: String, _ errno: Errno, advice: String = "") {
    self.init("\(doing): \(errno.nameAndText)", advice: advice, errno: errno)
  }

  /// The same failure, said of a larger object: "`subject`: …".
  public func of(_ subject: String) -> Failure {
    Failure("\(subject): \(cause)", advice: advice, errno: errno)
  }

  /// The same failure, with something to be done if it says nothing of that yet.
  public func advised(_ advice: String) -> Failure {
    guard self.advice.isEmpty else { return self }
    let first = errno == .tooManyOpenFiles ? "Raise the limit on open files (ulimit -Hn). " : ""
    return Failure(cause, advice: first + advice, errno: errno)
  }

  public var description: String { advice.isEmpty ? cause : cause + "\n" + advice }
}

extension Errno {
  /// The name that the manual pages use and the text: "ENOENT (No such file or directory)".
  public var nameAndText: String {
    guard let name = strerrorname_np(rawValue), let text = strerrordesc_np(rawValue) else {
      return "errno \(rawValue)"
    }
    return "\(String(cString: name)) (\(String(cString: text)))"
  }
}

/// Runs `body` and says of its error what it was about.
@inlinable
public func about<T: ~Copyable, E: Error>(
  _ subject: @autoclosure () -> String, advice: @autoclosure () -> String = "",
  _ body: () throws(E) -> T
) throws(Failure) -> T {
  do {
    return try body()
  } catch let error as Errno {
    throw Failure(subject(), error, advice: advice())
  } catch let error as Failure {
    throw error.of(subject())
  } catch {
    throw Failure("\(subject()): \(error)", advice: advice())
  }
}
