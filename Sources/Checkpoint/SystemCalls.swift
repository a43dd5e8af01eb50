import Glibc
import SystemPackage

/// The only place in this module where the C library's file functions are called.
enum SystemCalls {
  static func openat(_ folder: FileDescriptor?, _ path: String, _ flags: Int32, mode: mode_t = 0)
    throws(Errno)
    -> OwnedDescriptor
  {
    let fd = try retrying { Glibc.openat(folder?.rawValue ?? AT_FDCWD, path, flags | O_CLOEXEC, mode) }
    return OwnedDescriptor(FileDescriptor(rawValue: fd))
  }

  static func mkdir(_ path: String, mode: mode_t) throws(Errno) {
    _ = try retrying { Glibc.mkdir(path, mode) }
  }

  static func unlinkat(_ folder: FileDescriptor, _ name: String) throws(Errno) {
    _ = try retrying { Glibc.unlinkat(folder.rawValue, name, 0) }
  }

  static func renameat(_ folder: FileDescriptor, _ old: String, to new: String) throws(Errno) {
    _ = try retrying { Glibc.renameat(folder.rawValue, old, folder.rawValue, new) }
  }

  static func exists(_ folder: FileDescriptor, _ name: String) -> Bool {
    Glibc.faccessat(folder.rawValue, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0
  }

  /// Whether others than its owner may remove files from a folder (man 2 unlink; with S_ISVTX they may not).
  static func isOpenToOthers(_ folder: FileDescriptor) -> Bool {
    var status = stat()
    return fstat(folder.rawValue, &status) == 0 && status.st_mode & 0o022 != 0 && status.st_mode & 0o1000 == 0
  }

  /// The names in a folder, in no order; none if it cannot be listed.
  static func names(_ folder: FileDescriptor) -> [String] {
    var names: [String] = []
    forEachName(folder) { names.append(String(decoding: $0, as: UTF8.self)) }
    return names
  }

  /// The same, one after the other.
  static func forEachName(_ folder: FileDescriptor, _ body: (Slice<UnsafeRawBufferPointer>) -> Void) {
    // A description of its own: the position in the listing belongs to it.
    let fd = Glibc.openat(folder.rawValue, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard fd >= 0 else { return }
    guard let listing = fdopendir(fd) else {
      Glibc.close(fd)
      return
    }
    defer { closedir(listing) }
    while let entry = readdir(listing) {
      withUnsafeBytes(of: &entry.pointee.d_name) { body($0.prefix { $0 != 0 }) }
    }
  }

  static func duplicate(_ file: FileDescriptor) throws(Errno) -> OwnedDescriptor {
    OwnedDescriptor(FileDescriptor(rawValue: try retrying { fcntl(file.rawValue, F_DUPFD_CLOEXEC, 0) }))
  }

  static func fsync(_ file: FileDescriptor) throws(Errno) {
    _ = try retrying { Glibc.fsync(file.rawValue) }
  }

  /// The size of a regular file in bytes; `EINVAL` (as read(2) has it for unsuitable files) for any other
  /// kind.
  static func size(_ file: FileDescriptor) throws(Errno) -> Int {
    var status = stat()
    _ = try retrying { fstat(file.rawValue, &status) }
    guard status.st_mode & S_IFMT == S_IFREG else { throw .invalidArgument }
    return Int(status.st_size)
  }

  /// Reads until the buffer is full or the file ends, and returns how many bytes that were.
  static func pread(_ file: FileDescriptor, into buffer: UnsafeMutableRawBufferPointer, at offset: Int)
    throws(Errno)
    -> Int
  {
    var done = 0
    while done < buffer.count {
      let count = try retrying {
        Glibc.pread(
          file.rawValue, buffer.baseAddress.map { $0 + done }, buffer.count - done, off_t(offset + done))
      }
      if count == 0 { break }
      done += count
    }
    return done
  }

  /// Writes all of the bytes.
  static func write(_ file: FileDescriptor, _ bytes: UnsafeRawBufferPointer) throws(Errno) {
    var done = 0
    while done < bytes.count {
      done += try retrying {
        Glibc.write(file.rawValue, bytes.baseAddress.map { $0 + done }, bytes.count - done)
      }
    }
  }

  /// A file that loses its name at once. O_TMPFILE is not for every file system.
  static func temporary(in folder: FileDescriptor) throws(Errno) -> OwnedDescriptor {
    let name = "swift-restore.new"
    // One whose maker was killed in between.
    if exists(folder, name) { try unlinkat(folder, name) }
    let file = try openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, mode: 0o600)
    try unlinkat(folder, name)
    return file
  }

  private static func retrying<Result: SignedInteger>(_ call: () -> Result) throws(Errno) -> Result {
    while true {
      let result = call()
      if result != -1 { return result }
      let errno = Errno(rawValue: Glibc.errno)
      if errno != .interrupted { throw errno }
    }
  }
}

/// A file descriptor that is closed when it goes out of scope.
struct OwnedDescriptor: ~Copyable, Sendable {
  let value: FileDescriptor

  init(_ value: FileDescriptor) { self.value = value }

  deinit { _ = Glibc.close(value.rawValue) }

  /// Closes it now; some filesystems report only here that a write failed.
  consuming func close() throws(Errno) {
    let fd = value.rawValue
    discard self
    if Glibc.close(fd) != 0, Glibc.errno != EINTR { throw Errno(rawValue: Glibc.errno) }
  }

  /// Leaves it open, for someone else to close.
  consuming func release() -> FileDescriptor {
    let value = value
    discard self
    return value
  }
}
