import CLinux
import Glibc
import SystemPackage

/// Where a path may not lead (man 2 openat2, `resolve`).
public struct PathResolution: OptionSet, Sendable {
  public let rawValue: UInt64

  public init(rawValue: UInt64) { self.rawValue = rawValue }

  /// Onto another mount.
  public static let noMountCrossing = PathResolution(rawValue: 0x01)
  /// Through a symbolic link, also one of /proc; `ELOOP`. The last part may be one with `O_PATH` and `O_NOFOLLOW`.
  public static let noLinks = PathResolution(rawValue: 0x04)
  /// Out of the directory that it starts from; `EXDEV`.
  public static let beneath = PathResolution(rawValue: 0x08)
}

/// How a path is opened (man 2 openat2, `struct open_how`).
public struct OpenHow: BitwiseCopyable, Sendable {
  public let flags: UInt64
  public let mode: UInt64
  public let resolve: UInt64

  /// `O_LARGEFILE` is added, which openat(2) adds by itself. What openat ignores is left out: openat2 does not.
  public init(_ flags: Int32, mode: UInt32 = 0, resolving: PathResolution) {
    let known = flags & O_PATH != 0 ? O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC : Self.knownFlags
    let largeFile: Int32 = flags & O_PATH != 0 ? 0 : 0o100000
    self.flags = UInt64(UInt32(bitPattern: flags & known | largeFile))
    self.mode = UInt64(mode)
    resolve = resolving.rawValue
  }

  /// VALID_OPEN_FLAGS of include/linux/fcntl.h, without O_PATH.
  private static let knownFlags =
    O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_SYNC | O_DSYNC | O_ASYNC | O_DIRECT | O_DIRECTORY
    | O_NOFOLLOW | O_NOATIME | O_TMPFILE | O_CLOEXEC
}

extension Descriptor {
  /// Opens a path that leads nowhere else than it says (man 2 openat2, Linux 5.6). `O_CLOEXEC` is added.
  public static func open(
    at directory: Int32 = AT_FDCWD, _ path: [UInt8], _ flags: Int32, mode: UInt32 = 0, resolving: PathResolution
  ) throws(Errno) -> Descriptor {
    var how = OpenHow(flags | O_CLOEXEC, mode: mode, resolving: resolving)
    let result = withUnsafeMutablePointer(to: &how) { how in
      (path + [0]).withUnsafeBytes {
        cl_syscall(
          Int(__NR_openat2), Int(directory), Int(bitPattern: $0.baseAddress), Int(bitPattern: how), MemoryLayout<OpenHow>.size, 0, 0)
      }
    }
    if result < 0 { throw Errno(rawValue: Int32(-result)) }
    return Descriptor(Int32(result))
  }
}
