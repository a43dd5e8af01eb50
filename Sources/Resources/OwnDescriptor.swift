import CLinux
import Glibc
import Linux
import SystemPackage

/// A number of this process's own at which duplicates are looked at, one after the other.
///
/// A file of `/proc/self` that is open shows whatever has its number when it is read. That takes a tenth of what it takes to open the
/// same of the task, for which the kernel makes an inode that stays until the task ends.
final class OwnDescriptor {
  private let place: Descriptor
  private let info: Descriptor
  private let name: Descriptor
  /// By the device: whether the kernel alone knows who has locked a file there.
  private var knowsLocks: [UInt64: Bool] = [:]

  private init() throws(Errno) {
    place = try Descriptor.open("/proc/self", O_PATH | O_DIRECTORY)
    info = try Descriptor.open("/proc/self/fdinfo/\(place.rawValue)")
    name = try Descriptor.open("/proc/self/fd/\(place.rawValue)", O_PATH | O_NOFOLLOW)
  }

  static func window() throws(Failure) -> OwnDescriptor {
    try about("/proc/self/fdinfo") { () throws(Errno) in try OwnDescriptor() }
  }

  /// Puts a duplicate there, in place of the one before.
  func show(_ duplicate: borrowing Descriptor) throws(Errno) {
    try syscall(__NR_dup3, Int(duplicate.rawValue), Int(place.rawValue), Int(O_CLOEXEC))
  }

  /// Lets go of the last one: whoever waits for the last descriptor of a file to be closed, would wait for this.
  func clear() {
    _ = cl_syscall(Int(__NR_dup3), Int(name.rawValue), Int(place.rawValue), Int(O_CLOEXEC), 0, 0, 0)
  }

  /// What `/proc/PID/fd/N` would say.
  func link() throws(Errno) -> [UInt8] { try readlink(at: name.rawValue, "") }

  /// What `/proc/PID/fdinfo/N` would say, but for close-on-exec, which is this descriptor's, and the locks of processes.
  func info(_ buffer: ReadBuffer) throws(Errno) -> FdInfo {
    var shown = FdInfo(try buffer.readAgain(info.rawValue))
    shown.flags &= descriptionFlags
    return shown
  }

  /// Whether any process may have locked a part of the file (man 2 fcntl, F_GETLK); its own process's locks do not say so of themselves.
  func mayBeLocked(_ duplicate: borrowing Descriptor, _ stat: stat) -> Bool {
    let device = UInt64(stat.st_dev)
    let isKnown = knowsLocks[device] ?? Self.localTypes.contains(fileSystem(of: duplicate.rawValue)?.type ?? 0)
    knowsLocks[device] = isKnown
    // Elsewhere a server would be asked.
    guard isKnown else { return true }
    var lock = flock()
    lock.l_type = Int16(F_WRLCK)
    let result = withUnsafeMutablePointer(to: &lock) {
      cl_syscall(Int(__NR_fcntl), Int(duplicate.rawValue), Int(F_GETLK), Int(bitPattern: $0), 0, 0, 0)
    }
    return result != 0 || lock.l_type != Int16(F_UNLCK)
  }

  /// File systems whose locks are kept by the kernel and nobody else (include/uapi/linux/magic.h): ext4, XFS, Btrfs, F2FS, tmpfs, ramfs,
  /// overlayfs, SquashFS, proc, sysfs, devpts, and those of pipes and anonymous inodes.
  private static let localTypes: Set<Int> = [
    0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x0102_1994, 0x8584_58f6, 0x794c_7630, 0x7371_7368, 0x9fa0, 0x6265_6572, 0x1cd1,
    0x5049_5045, 0x0904_1934,
  ]
}
