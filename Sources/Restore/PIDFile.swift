import Glibc
import Linux
import Resources
import SystemPackage

/// The file that the root's PID is written to (`--pidfile`). Whether it can be had is found out before there is a tree, and it is
/// written before the tree runs: who finds the PID in it finds the process. A restore that fails leaves none.
final class PIDFile {
  private let path: String
  private let fd: Int32
  /// Until the tree lives.
  private var isWithdrawn: Bool

  /// `nil` if none is asked for.
  init?(_ options: RestoreOptions, images: String) throws(Failure) {
    guard let name = options.pidfile else { return nil }
    path = name.hasPrefix("/") ? name : (options.workDirectory ?? images) + "/" + name
    let flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC
    var fd = open(path, flags | O_EXCL, 0o644)
    isWithdrawn = fd >= 0
    if fd < 0, errno == EEXIST { fd = open(path, flags, 0o644) }
    guard fd >= 0 else {
      throw Failure(
        "the pidfile \(path)", Errno(rawValue: errno), advice: "Nothing was made. Name a file that can be written with --pidfile.")
    }
    self.fd = fd
  }

  func write(_ pid: Int32) throws(Failure) {
    var text = "\(pid)"
    let failed = text.withUTF8 { ftruncate(fd, 0) != 0 || Glibc.write(fd, $0.baseAddress, $0.count) != $0.count }
    if failed { throw Failure("writing the pidfile \(path)", Errno(rawValue: errno)) }
  }

  func keep() { isWithdrawn = false }

  deinit {
    if isWithdrawn { unlink(path) }
    close(fd)
  }
}
