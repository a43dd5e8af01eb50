import Glibc

/// The few things the tests do with files, without exceptions for what is not there.
enum Files {
  static func bytes(_ path: String) -> [UInt8]? {
    let fd = open(path, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { return nil }
    defer { close(fd) }
    var all: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = read(fd, &buffer, buffer.count)
      guard count > 0 else { return count == 0 || !all.isEmpty ? all : nil }
      all += buffer[..<count]
    }
  }

  static func text(_ path: String) -> String? { bytes(path).map { String(decoding: $0, as: UTF8.self) } }

  static func write(_ bytes: some Sequence<UInt8>, to path: String, mode: mode_t = 0o644) throws {
    let fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode)
    guard fd >= 0 else { throw LiveFailure("cannot write \(path): \(String(cString: strerror(errno)))") }
    defer { close(fd) }
    var rest = Array(bytes)[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(fd, $0.baseAddress, $0.count) }
      guard count > 0 else { throw LiveFailure("cannot write \(path): \(String(cString: strerror(errno)))") }
      rest = rest.dropFirst(count)
    }
  }

  static func write(_ text: String, to path: String) throws { try write(text.utf8, to: path) }

  static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

  static func link(_ path: String) -> String? {
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = readlink(path, &buffer, buffer.count)
    return count < 0 ? nil : String(decoding: buffer[..<count], as: UTF8.self)
  }

  /// The names in a folder, sorted; none where it cannot be read.
  static func names(_ folder: String) -> [String] {
    guard let listing = opendir(folder) else { return [] }
    defer { closedir(listing) }
    var names: [String] = []
    while let entry = readdir(listing) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names.sorted()
  }

  static func makeTemporaryFolder(_ name: String) throws -> String {
    var template = Array("/tmp/live.\(name).XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw LiveFailure("mkdtemp: \(String(cString: strerror(errno)))") }
    let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    chmod(path, 0o777)
    return path
  }

  /// An empty tmpfs at a path, for as long as `body` runs.
  static func withTmpfs<Result>(at path: String, size: String = "0", _ body: () throws -> Result) throws -> Result {
    mkdir(path, 0o777)
    guard mount("none", path, "tmpfs", 0, "size=\(size)") == 0 else { throw LiveFailure("cannot mount a tmpfs") }
    defer { umount2(path, Int32(MNT_DETACH)) }
    return try body()
  }

  static func remove(_ path: String) {
    var status = stat()
    guard lstat(path, &status) == 0 else { return }
    guard status.st_mode & S_IFMT == S_IFDIR else {
      unlink(path)
      return
    }
    for name in names(path) { remove("\(path)/\(name)") }
    rmdir(path)
  }
}
