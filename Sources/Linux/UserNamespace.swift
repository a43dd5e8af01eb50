import CLinux
import Glibc
import SystemPackage

/// The user namespace that a user without privileges restores in: its owner may do there what root may, with what is inside.
public enum UserNamespace {
  /// Whether this process is where capabilities count for the whole machine. The number is the kernel's
  /// (include/uapi/linux/nsfs.h: USER_NS_INIT_INO).
  public static let isInitial: Bool =
    (try? NamespaceInodes(folder: .own).inode(.user)) == 0xeffffffd

  /// Enters a new one, where this user is mapped to itself, and nobody else is. There must be one thread only.
  public static func enterNew() throws(Failure) {
    let (user, group) = (geteuid(), getegid())
    try about(
      "making a user namespace",
      advice:
        "This machine does not let this user make one (user.max_user_namespaces, kernel.unprivileged_userns_clone, AppArmor or SELinux)."
    ) { () throws(Errno) in _ = try syscall(__NR_unshare, Int(CLONE_NEWUSER)) }
    for (file, text) in [("uid_map", "\(user) \(user) 1"), ("setgroups", "deny"), ("gid_map", "\(group) \(group) 1")] {
      try about("mapping this user in its user namespace: writing \"\(text)\" to /proc/self/\(file)") { () throws(Errno) in
        let descriptor = try Descriptor.open("/proc/self/" + file, O_WRONLY)
        let bytes = Array(text.utf8)
        let written = bytes.withUnsafeBytes {
          cl_syscall(Int(__NR_write), Int(descriptor.rawValue), Int(bitPattern: $0.baseAddress), $0.count, 0, 0, 0)
        }
        if written < 0 { throw Errno(rawValue: Int32(-written)) }
      }
    }
  }
}
