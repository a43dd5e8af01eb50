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
