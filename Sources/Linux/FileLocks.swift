import Glibc
import SystemPackage

/// The files that have locks or leases (`/proc/locks`, man 5 proc_locks). To read this once takes less time than to read the fdinfo of
/// each descriptor, which shows the locks of one description.
public struct FileLocks: Sendable {
  /// Inode numbers; `nil` where not all locks are to be seen: outside of the first PID namespace those are left out whose owner has died
  /// (fs/locks.c: locks_translate_pid).
  private let inodes: Set<UInt64>?

  public init(_ buffer: ReadBuffer) {
    // include/linux/proc_ns.h: PROC_PID_INIT_INO
    guard let own = try? fstat(at: AT_FDCWD, "/proc/self/ns/pid"), own.st_ino == 0xefff_fffc,
      let file = try? Descriptor.open("/proc/locks"), let text = try? buffer.readAll(file.rawValue, longestRecord: 512)
    else {
      inodes = nil
      return
    }
    inodes = Self.inodes(text)
  }

  /// "1: POSIX  ADVISORY  WRITE 3568 fd:00:2531452 0 EOF"
  static func inodes(_ text: UnsafeRawBufferPointer) -> Set<UInt64> {
    var inodes: Set<UInt64> = []
    var text = ByteCursor(text)
    while !text.atEnd {
      var line = ByteCursor(text.line())
      while !line.atEnd {
        let word = line.upTo(0x20)
        if word.count(where: { $0 == UInt8(ascii: ":") }) == 2, let colon = word.lastIndex(of: UInt8(ascii: ":")) {
          var number = ByteCursor(UnsafeRawBufferPointer(rebasing: word[(colon + 1)...]))
          inodes.insert(number.unsigned())
        }
      }
    }
    return inodes
  }

  /// Whether a description of a file with this inode number may hold one. Numbers are compared without the device, which file systems may
  /// show differently to stat(2).
  public func mayConcern(inode: UInt64) -> Bool { inodes?.contains(inode) ?? true }
}
