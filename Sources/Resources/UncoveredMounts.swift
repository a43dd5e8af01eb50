import CLinux
import Glibc
import Linux
import SystemPackage

/// Directories of file systems of a tree under dump, each as a mount that is nowhere, so that it can be looked into wherever it lies.
///
/// A mount that is hidden below another one no path leads to. It is uncovered in a copy of the mount namespace that nobody else is in
/// (man 2 unshare): what hides it is unmounted there, and the tree's own namespace stays as it is.
final class UncoveredMounts {
  /// What is mounted.
  struct Key: Hashable {
    var device: UInt32
    /// The directory of the file system.
    var root: [UInt8]
  }

  /// -1 if it cannot be had.
  private var found: [Key: Int32] = [:]

  deinit {
    for fd in found.values where fd >= 0 { _ = cl_syscall(Int(__NR_close), Int(fd), 0, 0, 0, 0, 0) }
  }

  /// A descriptor of a mount of a directory, which lives as long as this object; `nil` if none of the namespaces has such a mount that can
  /// be reached.
  func mount(of key: Key, in namespaces: [DumpedNamespace], _ mounts: DumpedMounts) throws(Failure) -> Int32? {
    if let known = found[key] { return known < 0 ? nil : known }
    var copy: Int32?
    for uncover in [false, true] {
      for namespace in namespaces where copy == nil {
        copy = try self.copy(of: key, in: namespace, mounts, uncover: uncover)
      }
    }
    if let fd = copy, try !isDirectory(fd) {
      _ = cl_syscall(Int(__NR_close), Int(fd), 0, 0, 0, 0, 0)
      copy = nil
    }
    found[key] = copy ?? -1
    return copy
  }

  /// A file can be mounted too.
  private func isDirectory(_ fd: Int32) throws(Failure) -> Bool {
    try about("looking at what is mounted") { () throws(Errno) in try fstat(at: fd).st_mode & S_IFMT == S_IFDIR }
  }

  private func copy(
    of key: Key, in namespace: DumpedNamespace, _ mounts: DumpedMounts, uncover: Bool
  ) throws(Failure) -> Int32? {
    let candidates = mounts.list(namespace).filter { $0.shows(key) && mounts.isVisible($0, in: namespace) != uncover }
    if candidates.isEmpty { return nil }
    return try namespace.visit { () throws(Failure) in
      for mount in candidates {
        let copy =
          try uncover
          ? uncovered(mount, key, mounts)
          : about("open_tree") { () throws(Errno) in try FileSystem.copy(mount.point.text).release() }
        if let copy { return copy }
      }
      return nil
    }
  }

  /// A copy of a hidden mount of the namespace that the tracer is in. Leaves the tracer in a copy of that.
  private func uncovered(_ hidden: Mount, _ key: Key, _ mounts: DumpedMounts) throws(Failure) -> Int32? {
    try about("uncovering the mount at \(hidden.point.text)") { () throws(Errno) in
      try syscall(__NR_unshare, Int(CLONE_NEWNS))
      try FileSystem.makeAllPrivate()
      while true {
        let list = try mounts.listHere()
        guard let top = try Self.top(on: hidden.point, list) else { return nil }
        if top.shows(key) { return try FileSystem.copy(top.point.text).release() }
        guard let target = list.first(where: { $0.shows(key) && $0.point == hidden.point }),
          !target.lies(on: top, list), top.point != [UInt8(ascii: "/")]
        else { return nil }
        try syscall(__NR_umount2, path: top.point.text, 2 | 8 /* MNT_DETACH | UMOUNT_NOFOLLOW */)
      }
    }
  }

  /// The mount that one gets to on the way to a path, as far as that leads.
  private static func top(on path: [UInt8], _ list: [Mount]) throws(Errno) -> Mount? {
    var path = path
    while !path.isEmpty {
      if let place = try? Descriptor.open(path, O_PATH | O_NOFOLLOW, resolving: .noLinks) {
        let id = try mountID(at: place.rawValue)
        return list.first { $0.id == id }
      }
      path = Array(path[..<(path.lastIndex(of: UInt8(ascii: "/")) ?? 0)])
    }
    return nil
  }
}

extension Mount {
  fileprivate func shows(_ key: UncoveredMounts.Key) -> Bool { device == key.device && root == key.root }

  /// Whether another one is that which it is mounted on, or further below.
  fileprivate func lies(on other: Mount, _ list: [Mount]) -> Bool {
    var at: Mount? = self
    while let mount = at {
      if mount.id == other.id { return true }
      at = mount.parent == mount.id ? nil : list.first { $0.id == mount.parent }
    }
    return false
  }
}
