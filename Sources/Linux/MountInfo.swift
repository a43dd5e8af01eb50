import CLinux
import Glibc
import SystemPackage

/// One line of `/proc/PID/mountinfo` (man 5 proc_pid_mountinfo).
public struct Mount: Sendable {
  /// Unique among all mounts that there are now.
  public var id: Int32 = 0
  /// The mount that it lies on, or itself or one that is not listed for the root.
  public var parent: Int32 = 0
  public var major: UInt32 = 0
  public var minor: UInt32 = 0
  /// The directory (or file) of the file system that is the mount's root.
  public var root: [UInt8] = []
  /// Where it is mounted, from the root directory of who read.
  public var point: [UInt8] = []
  /// MS_RDONLY and the like, of this mount (man 2 mount).
  public var flags: UInt32 = 0
  /// Its peer group, and the one that it receives from.
  public var shared: UInt32?
  public var master: UInt32?
  public var isUnbindable = false
  public var type: [UInt8] = []
  public var source: [UInt8] = []
  /// Of the file system: "rw,size=8192k".
  public var options: [UInt8] = []

  public init() {}

  /// Major and minor number as the kernel keeps them (linux/kdev_t.h: MKDEV).
  public var device: UInt32 { major << 20 | minor }

  private static let flagNames: [(name: String, flag: UInt32)] = [
    ("ro", 1), ("nosuid", 2), ("nodev", 4), ("noexec", 8), ("nosymfollow", 256), ("noatime", 1024),
    ("nodiratime", 2048), ("relatime", 1 << 21),
  ]

  /// All mounts of a mountinfo text, in the kernel's order.
  public static func parse(_ text: UnsafeRawBufferPointer) -> [Mount] {
    var mounts: [Mount] = []
    var text = ByteCursor(text)
    while !text.atEnd { mounts.append(Mount(line: ByteCursor(text.line()))) }
    return mounts
  }

  private init(line: ByteCursor) {
    var line = line
    id = Int32(truncatingIfNeeded: line.decimal())
    line.skip()
    parent = Int32(truncatingIfNeeded: line.decimal())
    line.skip()
    major = UInt32(truncatingIfNeeded: line.unsigned())
    line.skip()
    minor = UInt32(truncatingIfNeeded: line.unsigned())
    line.skip()
    root = Self.unescaped(line.upTo(0x20))
    point = Self.unescaped(line.upTo(0x20))
    for word in Array(line.upTo(0x20)).split(separator: UInt8(ascii: ",")) {
      flags |= Self.flagNames.first { word.elementsEqual($0.name.utf8) }?.flag ?? 0
    }
    while !line.atEnd {
      let word = line.upTo(0x20)
      var field = ByteCursor(word)
      if field.startsWith("shared:") {
        field.skip(7)
        shared = UInt32(truncatingIfNeeded: field.unsigned())
      } else if field.startsWith("master:") {
        field.skip(7)
        master = UInt32(truncatingIfNeeded: field.unsigned())
      } else if field.startsWith("unbindable") {
        isUnbindable = true
      } else if word.count == 1 {
        break  // "-"
      }
    }
    type = Self.unescaped(line.upTo(0x20))
    source = Self.unescaped(line.upTo(0x20))
    options = Self.unescaped(line.upTo(0x20))
  }

  /// Blanks, newlines and backslashes are shown as a backslash and three octal digits.
  private static func unescaped(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
    var plain: [UInt8] = []
    var text = ByteCursor(bytes)
    while let c = text.peek {
      text.skip()
      if c == UInt8(ascii: "\\"), text.position + 3 <= bytes.count {
        var digits = ByteCursor(UnsafeRawBufferPointer(rebasing: bytes[text.position..<(text.position + 3)]))
        plain.append(UInt8(truncatingIfNeeded: digits.octal()))
        text.skip(3)
      } else {
        plain.append(c)
      }
    }
    return plain
  }
}

extension Mount {
  /// Whether `path` is `directory`, or lies below it; what comes after it, without a slash in front.
  public static func remainder(of path: [UInt8], below directory: [UInt8]) -> [UInt8]? {
    let slash = UInt8(ascii: "/")
    let base = directory.last == slash ? directory.dropLast() : directory[...]
    guard path.starts(with: base) else { return nil }
    let rest = path.dropFirst(base.count)
    guard let first = rest.first else { return [] }
    return first == slash ? Array(rest.dropFirst()) : nil
  }
}

/// The ID of the mount through which a path is reached; an empty path means the descriptor itself (man 2 statx, STATX_MNT_ID).
public func mountID(at directory: Int32, _ path: String = "", followLinks: Bool = true) throws(Errno) -> Int32 {
  let flags = (path.isEmpty ? AT_EMPTY_PATH : 0) | (followLinks ? 0 : AT_SYMLINK_NOFOLLOW)
  var result = 0
  // struct statx has 256 bytes; stx_mnt_id is the 64-bit word at offset 144.
  let mount = withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 32) { status in
    status.initialize(repeating: 0)
    result = path.withCString {
      cl_syscall(
        Int(__NR_statx), Int(directory), Int(bitPattern: $0), Int(flags), 0x1000 /* STATX_MNT_ID */,
        Int(bitPattern: status.baseAddress), 0)
    }
    return status[18]
  }
  if result < 0 { throw Errno(rawValue: Int32(-result)) }
  return Int32(truncatingIfNeeded: mount)
}
