import CLinux
import Glibc
import SystemPackage

/// Making mounts that are nowhere yet (man 2 fsopen, fsconfig, fsmount; Linux 6.15 lets them be copied too).
public enum FileSystem {
  /// Makes a file system of a type with `options` ("key=value" or "flag"); a descriptor of its mount, which lives as long.
  public static func mount(_ type: String, source: String = "none", options: [String] = []) throws(Errno) -> Descriptor {
    let context = Descriptor(Int32(try syscall(__NR_fsopen, path: type, 1 /* FSOPEN_CLOEXEC */)))
    try configure(context.rawValue, "source", source)
    for option in options {
      let parts = option.split(separator: "=", maxSplits: 1).map(String.init)
      try configure(context.rawValue, parts[0], parts.count > 1 ? parts[1] : nil)
    }
    try syscall(__NR_fsconfig, Int(context.rawValue), 6 /* FSCONFIG_CMD_CREATE */)
    return Descriptor(Int32(try syscall(__NR_fsmount, Int(context.rawValue), 1 /* FSMOUNT_CLOEXEC */)))
  }

  /// Makes a whole file system read-only (man 2 fspick).
  public static func makeReadOnly(_ mount: Int32) throws(Errno) {
    // FSPICK_CLOEXEC | FSPICK_EMPTY_PATH
    let context = Descriptor(Int32(try syscall(__NR_fspick, Int(mount), path: "", 9)))
    try configure(context.rawValue, "ro", nil)
    try syscall(__NR_fsconfig, Int(context.rawValue), 7 /* FSCONFIG_CMD_RECONFIGURE */)
  }

  /// Copies one mount, without what is mounted in it: a descriptor of the copy (man 2 open_tree). An empty path means the descriptor
  /// itself.
  public static func copy(at directory: Int32 = AT_FDCWD, _ path: String = "") throws(Errno) -> Descriptor {
    let flags = 0x8_0001 | (path.isEmpty ? AT_EMPTY_PATH : 0) | AT_SYMLINK_NOFOLLOW  // OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
    return Descriptor(Int32(try syscall(__NR_open_tree, Int(directory), path: path, Int(flags))))
  }

  /// Puts a mount that is nowhere yet onto a file or directory (man 2 move_mount).
  public static func attach(_ mount: Int32, to target: Int32) throws(Errno) {
    let result = "".withCString { empty in
      cl_syscall(
        Int(__NR_move_mount), Int(mount), Int(bitPattern: empty), Int(target), Int(bitPattern: empty),
        0x44 /* MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH */, 0)
    }
    if result < 0 { throw Errno(rawValue: Int32(-result)) }
  }

  /// Sets the flags (MS_RDONLY and the like) of a mount, and how it propagates: MS_PRIVATE or MS_UNBINDABLE (man 2 mount_setattr).
  public static func setAttributes(of mount: Int32, flags: UInt32, propagation: UInt32) throws(Errno) {
    // MOUNT_ATTR_RDONLY, _NOSUID, _NODEV and _NOEXEC are the MS_ flags.
    var set = UInt64(flags & 15)
    if flags & 256 != 0 { set |= 0x20_0000 }  // MOUNT_ATTR_NOSYMFOLLOW
    if flags & 2048 != 0 { set |= 0x80 }  // MOUNT_ATTR_NODIRATIME
    if flags & 1024 != 0 {
      set |= 0x10  // MOUNT_ATTR_NOATIME
    } else if flags & 1 << 21 == 0 {
      set |= 0x20  // MOUNT_ATTR_STRICTATIME
    }
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    var attributes = (set, UInt64(15 | 0x20_0000 | 0x80 | 0x70) & ~(set & ~0x70), UInt64(propagation), UInt64(0))
    try withUnsafeMutablePointer(to: &attributes) { pointer throws(Errno) in
      let result = "".withCString {
        cl_syscall(
          Int(__NR_mount_setattr), Int(mount), Int(bitPattern: $0), Int(AT_EMPTY_PATH), Int(bitPattern: pointer), 32, 0)
      }
      if result < 0 { throw Errno(rawValue: Int32(-result)) }
    }
  }

  /// Has all mounts of this mount namespace propagate no more (man 2 mount, MS_REC | MS_PRIVATE).
  public static func makeAllPrivate() throws(Errno) {
    let result = "/".withCString { cl_syscall(Int(__NR_mount), 0, Int(bitPattern: $0), 0, 0x4_4000, 0, 0) }
    if result < 0 { throw Errno(rawValue: Int32(-result)) }
  }

  /// Opens a place below a directory as a mere place (O_PATH), without going through any other mount or symbolic link (man 2 openat2).
  public static func place(in directory: Int32, _ path: [UInt8]) throws(Errno) -> Descriptor {
    if path.isEmpty { return Descriptor(Int32(try syscall(__NR_fcntl, Int(directory), 1030 /* F_DUPFD_CLOEXEC */, 0))) }
    return try Descriptor.open(
      at: directory, path, O_PATH | O_NOFOLLOW, resolving: [.noMountCrossing, .noLinks, .beneath])
  }

  /// Makes a directory with all that lead to it, below another one that nobody else changes: a descriptor of it. A path that leads out
  /// is `EXDEV`.
  public static func makeFolders(_ path: [UInt8], in directory: Int32) throws(Errno) -> Descriptor {
    var place = try self.place(in: directory, [])
    for name in path.split(separator: UInt8(ascii: "/")) {
      if name.elementsEqual(".".utf8) || name.elementsEqual("..".utf8) { throw Errno(rawValue: EXDEV) }
      let result = (Array(name) + [0]).withUnsafeBytes {
        cl_syscall(Int(__NR_mkdirat), Int(place.rawValue), Int(bitPattern: $0.baseAddress), 0o755, 0, 0, 0)
      }
      if result < 0, result != -Int(EEXIST) { throw Errno(rawValue: Int32(-result)) }
      place = try self.place(in: place.rawValue, Array(name))
    }
    return place
  }

  /// FSCONFIG_SET_FLAG 0, FSCONFIG_SET_STRING 1.
  private static func configure(_ context: Int32, _ key: String, _ value: String?) throws(Errno) {
    let result = key.withCString { key in
      guard let value else { return cl_syscall(Int(__NR_fsconfig), Int(context), 0, Int(bitPattern: key), 0, 0, 0) }
      return value.withCString {
        cl_syscall(Int(__NR_fsconfig), Int(context), 1, Int(bitPattern: key), Int(bitPattern: $0), 0, 0)
      }
    }
    if result < 0 { throw Errno(rawValue: Int32(-result)) }
  }
}

/// The type of the file system that a file is on, and the bytes of its blocks (man 2 fstatfs, f_type and f_bsize); `nil` if the kernel does not
/// tell.
public func fileSystem(of fd: Int32) -> (type: Int, blockSize: Int)? {
  // struct statfs: 15 words, these are the first.
  var status = [Int](repeating: 0, count: 15)
  let result = status.withUnsafeMutableBytes { cl_syscall(Int(__NR_fstatfs), Int(fd), Int(bitPattern: $0.baseAddress), 0, 0, 0, 0) }
  return result == 0 ? (status[0], status[1]) : nil
}
