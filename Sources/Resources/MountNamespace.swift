import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// The mounts that tasks see (man 7 mount_namespaces).
///
/// A file system that the dumping tool had mounted too is not the tree's: at restore the same is taken from where this tool has it.
/// All others belong to the tree, and are made again with what was in them.
public enum MountNamespace: NamespaceKind {
  public static let kind = NamespaceInodes.Kind.mnt
  public static let flag = CLONE_NEWNS

  public static func id(in ids: TaskKobjIdsEntry) -> UInt32? { ids.mntNsId }
  public static func set(_ id: UInt32, in ids: inout TaskKobjIdsEntry) { ids.mntNsId = id }

  public static func found(_ namespace: DumpedNamespace, _ table: NamespaceTable) throws(Failure) {
    try table.mounts.read(namespace)
  }

  public static func objections(_ namespace: DumpedNamespace, _ table: NamespaceTable) throws(Failure) -> [String] {
    let mounts = table.mounts
    var objections: [String] = []
    for mount in mounts.list(namespace) {
      if let objection = try Self.objection(mount, namespace, table) {
        objections.append(
          "\(namespace.description): the mount of \(mount.type.text) at \(mount.point.text): \(objection)")
      }
    }
    return objections
  }

  private static func objection(
    _ mount: Mount, _ namespace: DumpedNamespace, _ table: NamespaceTable
  ) throws(Failure) -> String? {
    if mount.shared != nil || mount.master != nil { return "it propagates to or from others (propagation)" }
    if mount.root.suffix(9).elementsEqual("//deleted".utf8) { return "the mounted directory was deleted (mount)" }
    if table.mounts.isOuter(mount) {
      // What is nowhere else can only stay where the tool has it too.
      let isTwin = table.mounts.own.contains {
        $0.device == mount.device && $0.point == mount.point && $0.root == mount.root
      }
      return table.mounts.outerPath(mount) != nil || isTwin
        ? nil : "swift-restore has the directory \(mount.root.text) of its file system nowhere (mount)"
    }
    guard let kind = OwnFileSystem(type: mount.type.text) else { return "a file system of this type (mount)" }
    return try kind.objection(mount, table)
  }

  public static func record(_ namespace: DumpedNamespace, _ dump: DumpContext) throws(Failure) {
    guard let table = dump.namespaces else { return }
    var image = try asFailure { () throws(ImageError) in try ImageWriter(.mountpoints(namespace.id), in: dump.directory) }
    for mount in table.mounts.list(namespace) {
      var entry = MntEntry(mount)
      entry.isOuter = table.mounts.isOuter(mount)
      if table.mounts.isOuter(mount) {
        entry.outerPath = table.mounts.outerPath(mount)
        // For CRIU, which takes the root itself from the folder that it is told.
        if mount.point != [UInt8(ascii: "/")] {
          entry.extKey = ForeignMounts.foundByItself
          entry.source = entry.outerPath ?? mount.point
        }
      } else if let kind = OwnFileSystem(type: mount.type.text) {
        try about("\(namespace.description): the mount at \(mount.point.text)") { () throws(Failure) in
          try kind.record(mount, dump, &entry)
        }
      }
      try image.write(entry)
    }
    try image.end()
  }

  public static func check(_ id: UInt32, _ restore: RestoreContext) throws(Failure) {
    var image = try asFailure { () throws(ImageError) in try ImageReader(.mountpoints(id), in: restore.directory) }
    var entries: [MntEntry] = []
    while let entry = try image.read(MntEntry.self) { entries.append(entry) }
    try restore.mounts.add(entries, of: id, restore)
  }

  public static func make(_ id: UInt32, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    try restore.mounts.makeFileSystems(of: id, restore)
    let descriptor = try Visit.makeNew(Self.self) { () throws(Failure) in
      try about("making its mounts private") { () throws(Errno) in try FileSystem.makeAllPrivate() }
      try restore.mounts.build(id)
    }
    return descriptor
  }

  public static func finish(_ id: UInt32, _ restore: RestoreContext) throws(Failure) {
    let namespace = restore.namespaces.descriptor(of: Self.self, id)
    try about("mount namespace \(id)") { () throws(Failure) in
      try Visit.run(namespace, flag) { () throws(Failure) in try restore.mounts.verify(id) }
    }
  }
}

extension MntEntry {
  init(_ mount: Mount) {
    self.init()
    fstype = UInt32((Self.types[mount.type.text] ?? .auto).rawValue)
    mntId = UInt32(bitPattern: mount.id)
    rootDev = mount.device
    parentMntId = UInt32(bitPattern: mount.parent)
    flags = mount.flags | (mount.isUnbindable ? 1 << 17 : 1 << 18)  // MS_UNBINDABLE, MS_PRIVATE
    root = mount.root
    mountpoint = mount.point
    source = mount.source
    let words = mount.options.split(separator: UInt8(ascii: ","))
    sbFlags = words.contains { $0.elementsEqual("ro".utf8) } ? 1 : 0
    options = Array(words.filter { !$0.elementsEqual("rw".utf8) && !$0.elementsEqual("ro".utf8) }.joined(separator: [0x2c]))
    // Other readers take a name of theirs for no other type.
    if Fstype.auto.rawValue == Int32(bitPattern: fstype) { fsname = mount.type.text }
  }

  private static let types: [String: Fstype] = [
    "proc": .proc, "sysfs": .sysfs, "devtmpfs": .devtmpfs, "binfmt_misc": .binfmtMisc, "tmpfs": .tmpfs,
    "devpts": .devpts, "pstore": .pstore, "securityfs": .securityfs, "fusectl": .fusectl, "debugfs": .debugfs,
    "cgroup": .cgroup, "mqueue": .mqueue, "overlay": .overlayfs, "tracefs": .tracefs, "cgroup2": .cgroup2,
  ]

  /// The kernel's name of the type.
  var type: String { Self.types.first { $0.value.rawValue == Int32(bitPattern: fstype) }?.key ?? fsname ?? "" }

  /// The flags of the mount itself.
  var mountFlags: UInt32 { flags & (15 | 256 | 1024 | 2048 | 1 << 21) }
}
