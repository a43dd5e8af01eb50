import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// File systems without a device that a tree may have of its own, each made again by a mount of its type.
public enum OwnFileSystem: String {
  case tmpfs, proc, sysfs, devpts, mqueue

  init?(type: String) { self.init(rawValue: type) }

  func objection(_ mount: Mount, _ table: NamespaceTable) throws(Failure) -> String? {
    switch self {
    case .tmpfs:
      guard let root = table.top(of: mount) else { return "the tree has several parts of its file system, and not all of it (mount)" }
      return try table.content(of: mount, root) == nil ? Self.unreachable : nil
    case .proc:
      guard table.top(of: mount) == Self.all, let whole = try table.content(of: mount, Self.all) else { return Self.unreachable }
      return table.pidNamespace(shownBy: whole) == nil
        ? "it shows the processes of a PID namespace that is not the tree's (pid-ns)" : nil
    case .mqueue:
      if try table.isOwnQueues(mount) { return nil }
      return try table.ipcNamespace(shownBy: mount) != nil
        ? nil : "it shows the queues of an IPC namespace that is not the tree's (ipc-ns)"
    case .sysfs, .devpts: return nil
    }
  }

  private static let all = [UInt8(ascii: "/")]
  private static let unreachable = "all of its file system is nowhere in the tree, or where it cannot be uncovered (mount)"

  /// Records what is in it, once for each file system.
  func record(_ mount: Mount, _ dump: DumpContext, _ entry: inout MntEntry) throws(Failure) {
    guard let table = dump.namespaces else { return }
    switch self {
    case .tmpfs:
      let root = table.top(of: mount) ?? Self.all
      if root != Self.all { entry.contentRoot = root }
      guard let content = try table.content(of: mount, root), dump.fileSystems.insert(mount.device).inserted else { return }
      let image = try asFailure { () throws(ImageError) in try dump.directory.create(.tmpfsDev(mount.device)) }
      let file = Descriptor(image.rawValue)
      try Archive.create(of: content, to: file.rawValue)
    case .proc: entry.pidNsId = try table.content(of: mount, Self.all).flatMap { table.pidNamespace(shownBy: $0) }
    case .mqueue: entry.ipcNsId = try table.ipcNamespace(shownBy: mount)
    case .sysfs, .devpts: break
    }
  }

  /// Makes the file system, in the namespaces that the tracer is in: a descriptor of a mount of it that is nowhere yet.
  public func make(_ entry: MntEntry, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    let mount = try about("mounting \(rawValue)") { () throws(Errno) in
      try FileSystem.mount(
        rawValue, source: entry.source.text,
        options: entry.options.split(separator: UInt8(ascii: ",")).map { Array($0).text })
    }
    if self == .tmpfs, restore.directory.contains(.tmpfsDev(entry.rootDev)) {
      let image = try asFailure { () throws(ImageError) in try restore.directory.open(.tmpfsDev(entry.rootDev)) }
      let file = Descriptor(image.rawValue)
      let place = try about("making \(entry.contentRoot?.text ?? "/") in it") { () throws(Errno) in
        try FileSystem.makeFolders(entry.contentRoot ?? [], in: mount.rawValue)
      }
      try Archive.extract(file.rawValue, into: place.rawValue)
    }
    if entry.sbFlags ?? 0 & 1 != 0 {
      try about("making it read-only") { () throws(Errno) in try FileSystem.makeReadOnly(mount.rawValue) }
    }
    return mount
  }
}

extension NamespaceTable {
  /// The directory of a mount's file system that all of the tree's mounts of it lie in: mostly its root. `nil`: there is none.
  fileprivate func top(of mount: Mount) -> [UInt8]? {
    let roots = namespaces.flatMap { mounts.list($0) }.filter { $0.device == mount.device }.map(\.root)
    let top = roots.min { $0.count < $1.count }
    return top.flatMap { top in roots.allSatisfy { Mount.remainder(of: $0, below: top) != nil } ? top : nil }
  }

  /// A descriptor of a mount of that directory that is nowhere; `nil` if there is none that can be reached.
  fileprivate func content(of mount: Mount, _ root: [UInt8]) throws(Failure) -> Int32? {
    try mounts.content(mount.device, root, in: namespaces.filter { $0.kind == MountNamespace.self })
  }

  /// Whose processes a proc shows: the init of a PID namespace has the number 1 in it.
  fileprivate func pidNamespace(shownBy proc: Int32) -> UInt32? {
    guard let shown = try? fstat(at: proc, "1/ns/pid") else { return nil }
    return pidNamespaceIDs[UInt64(shown.st_ino)]
  }

  /// Whose queues an mqueue shows: each IPC namespace has one such file system.
  fileprivate func ipcNamespace(shownBy mount: Mount) throws(Failure) -> UInt32? {
    for namespace in namespaces where namespace.kind == IPCNamespace.self {
      if try namespace.visit({ () throws(Failure) in try isOwnQueues(mount) }) { return namespace.id }
    }
    return nil
  }

  /// Whether it is the file system of the IPC namespace that the tracer is in.
  fileprivate func isOwnQueues(_ mount: Mount) throws(Failure) -> Bool {
    let device = try about("mounting mqueue") { () throws(Errno) in
      let queues = try FileSystem.mount("mqueue")
      return try fstat(at: queues.rawValue).st_dev
    }
    let (major, minor) = deviceNumber(UInt64(device))
    return major << 20 | minor == mount.device
  }
}

extension MntEntry {
  /// Appends the calls by which a task mounts a proc of its PID namespace nowhere; the result of the one that is returned is a
  /// descriptor of the mount (man 2 fsopen, fsconfig, fsmount).
  public func mountProc(_ program: inout SyscallProgram) -> SyscallProgram.Call {
    let type = program.place(path: Array("proc".utf8))
    let context = program.call(__NR_fsopen, Argument(type), 1 /* FSOPEN_CLOEXEC */, for: "mounting proc: fsopen")
    func configure(_ key: [UInt8], _ value: [UInt8]?) {
      let key = program.place(path: key)
      let text = value.map { program.place(path: $0) }
      program.call(
        __NR_fsconfig, .result(context), text == nil ? 0 /* FSCONFIG_SET_FLAG */ : 1 /* FSCONFIG_SET_STRING */, Argument(key),
        Argument(text ?? 0), 0, for: "mounting proc: fsconfig")
    }
    configure(Array("source".utf8), source)
    for option in options.split(separator: UInt8(ascii: ",")) {
      let parts = option.split(separator: UInt8(ascii: "="), maxSplits: 1)
      configure(Array(parts[0]), parts.count > 1 ? Array(parts[1]) : nil)
    }
    program.call(
      __NR_fsconfig, .result(context), 6 /* FSCONFIG_CMD_CREATE */, 0, 0, 0, for: "mounting proc: fsconfig")
    let mount = program.call(__NR_fsmount, .result(context), 1 /* FSMOUNT_CLOEXEC */, 0, for: "mounting proc: fsmount")
    program.call(__NR_close, .result(context))
    return mount
  }
}
