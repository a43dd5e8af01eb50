import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// The mounts that files of a tree under dump are reached through: those of the tracer's own mount namespace, and those of the
/// tree's.
public final class DumpedMounts {
  /// The tracer's own.
  let own: [Mount]
  private let ownByID: [Int32: Mount]
  private(set) var namespaces: [UInt32: Mounts] = [:]
  private let uncovered = UncoveredMounts()
  /// Mounts of namespaces that are not the tree's, and which of the tree's have the same files at the same places.
  private var substitutes: [Int32: Int32] = [:]
  /// `/proc`, which need not be there in another namespace.
  private let proc: Descriptor

  /// The mounts of one namespace.
  struct Mounts {
    let list: [Mount]
    /// Its root directory, held open.
    let root: Int32
  }

  /// Where a file is.
  struct Place {
    /// `nil`: in the tracer's own namespace.
    var namespace: DumpedNamespace?
    var mount: Mount
    /// What has to stand before the file's path to reach it from here.
    var prefix: String
    /// The root directory of the namespace; `nil` if it is the tracer's own.
    var root: Int32?

    /// A path of the namespace, as it is reached from here.
    func path(_ name: [UInt8]) -> RecordedPath {
      root.map { RecordedPath(directory: $0, path: Array(name.dropFirst())) } ?? RecordedPath(path: name)
    }
  }

  init() throws(Errno) {
    proc = try Descriptor.open("/proc", O_PATH | O_DIRECTORY)
    own = try Self.read(proc.rawValue)
    ownByID = Dictionary(own.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
  }

  deinit {
    for mounts in namespaces.values { _ = cl_syscall(Int(__NR_close), Int(mounts.root), 0, 0, 0, 0, 0) }
  }

  private static func read(_ proc: Int32) throws(Errno) -> [Mount] {
    let buffer = ReadBuffer()
    let file = try Descriptor.open(at: proc, "thread-self/mountinfo")
    return try withExtendedLifetime(buffer) { () throws(Errno) in Mount.parse(try buffer.readAll(file.rawValue)) }
  }

  func read(_ namespace: DumpedNamespace) throws(Failure) {
    namespaces[namespace.id] = try namespace.visit { () throws(Failure) in
      try about("reading its mounts") { () throws(Errno) in
        let list = try Self.read(proc.rawValue)
        return Mounts(list: list, root: try Descriptor.open("/", O_PATH | O_DIRECTORY).release())
      }
    }
  }

  /// The mounts that the tracer sees where it is.
  func listHere() throws(Errno) -> [Mount] { try Self.read(proc.rawValue) }

  /// A descriptor of a mount of a directory of a file system that a tree has of its own; `nil` if it cannot be reached.
  func content(_ device: UInt32, _ root: [UInt8], in namespaces: [DumpedNamespace]) throws(Failure) -> Int32? {
    try uncovered.mount(of: .init(device: device, root: root), in: namespaces, self)
  }

  func list(_ namespace: DumpedNamespace) -> [Mount] { namespaces[namespace.id]?.list ?? [] }

  /// A path of a namespace, as it is reached from here.
  func reach(_ path: [UInt8], in namespace: DumpedNamespace?) -> String {
    guard let namespace, let mounts = namespaces[namespace.id] else { return path.text }
    return "/proc/self/fd/\(mounts.root)" + path.text
  }

  /// Where a file is that was opened through a mount; `nil` if no namespace of the tree has that mount.
  func place(_ mount: Int32, in table: NamespaceTable) -> Place? {
    if let mount = ownByID[mount] { return Place(namespace: nil, mount: mount, prefix: "") }
    let mount = substitutes[mount] ?? mount
    for namespace in table.namespaces {
      if let found = namespaces[namespace.id]?.list.first(where: { $0.id == mount }) {
        return Place(namespace: namespace, mount: found, prefix: reach([], in: namespace), root: namespaces[namespace.id]?.root)
      }
    }
    return nil
  }

  /// Takes a mount of a namespace for one that is not the tree's, if it has the file at the same path.
  func substitute(_ mount: Int32, of file: DumpedFile, in namespace: DumpedNamespace) -> Bool {
    let path = reach(file.link, in: namespace)
    guard let found = try? fstat(at: AT_FDCWD, path, followLinks: false), found.st_dev == file.stat.st_dev,
      found.st_ino == file.stat.st_ino, let id = try? mountID(at: AT_FDCWD, path, followLinks: false),
      list(namespace).contains(where: { $0.id == id })
    else { return false }
    substitutes[mount] = id
    return true
  }

  /// Whether the tracer has a file system mounted, too.
  func isOuter(_ mount: Mount) -> Bool { own.contains { $0.device == mount.device } }

  /// A path of the tracer's namespace that leads to the mounted directory; `nil` if there is none.
  func outerPath(_ mount: Mount) -> [UInt8]? {
    let slash = UInt8(ascii: "/")
    let sources = own.filter { $0.device == mount.device }.sorted { a, b in
      (a.point == mount.point && a.root == mount.root ? 0 : 1) < (b.point == mount.point && b.root == mount.root ? 0 : 1)
    }
    for source in sources {
      guard let rest = Mount.remainder(of: mount.root, below: source.root) else { continue }
      var path = source.point
      if !rest.isEmpty { path += (path.last == slash ? [] : [slash]) + rest }
      if (try? mountID(at: AT_FDCWD, path.text)) == source.id { return path }
    }
    return nil
  }

  /// Whether a mount of a namespace can be seen, or is below another one.
  func isVisible(_ mount: Mount, in namespace: DumpedNamespace) -> Bool {
    (try? mountID(at: AT_FDCWD, reach(mount.point, in: namespace))) == mount.id
  }
}

extension NamespaceTable {
  /// Whether any task has mounts of its own.
  var hasMounts: Bool { !mounts.namespaces.isEmpty }

  /// Why files of a task cannot be opened again as they are reached now.
  public func objections(to task: DumpedTask) -> [String] {
    task.descriptors.compactMap { descriptor in
      let (file, kind) = (descriptor.file.file, descriptor.file.kind)
      // What it has inherited was looked at with its parent.
      if file.pid != task.pid { return nil }
      guard kind == RegularFile.self || kind == Fifo.self || kind == Terminal.self else { return nil }
      guard let place = mounts.place(file.info.mountID, in: self) else {
        return isReached(file) || isShared(file, with: task)
          ? nil : "\(file.description): a file on a mount that is in no namespace of the tree (mount)"
      }
      guard place.namespace != nil else { return nil }
      if kind == Terminal.self, !mounts.isOuter(place.mount) {
        return "\(file.description): a terminal of a devpts of its own (pty)"
      }
      return isOutOfReach(file.link, place) ? "\(file.description): a file below another mount (mount)" : nil
    }
  }

  /// Whether a file that was opened through a mount that is gone, or nobody's, is the one that the tracer finds at the same path.
  func isReached(_ file: DumpedFile) -> Bool {
    let found = try? fstat(of: file.link)
    guard let found else { return false }
    // Whichever file it is, a memory device is the same: /dev/null of a container that the tree was started from.
    if file.format == S_IFCHR, deviceNumber(UInt64(file.stat.st_rdev)).major == 1 {
      return found.st_mode & S_IFMT == S_IFCHR && found.st_rdev == file.stat.st_rdev
    }
    return found.st_dev == file.stat.st_dev && found.st_ino == file.stat.st_ino
  }

  /// Whether a file that was opened in a namespace that is not the tree's is at the same path in that of the task, which was copied from it.
  func isShared(_ file: DumpedFile, with task: DumpedTask) -> Bool {
    task.namespace(MountNamespace.self).map { mounts.substitute(file.info.mountID, of: file, in: $0) } ?? false
  }

  /// Why the directories of tasks cannot be opened again.
  func objectionsToDirectories() throws(Failure) -> [String] {
    var objections: [String] = []
    for task in tasks where hasMounts {
      for name in ["cwd", "root"] {
        let (link, id) = try about("\(task.description): \(name)") { () throws(Errno) in
          let folder = task.directory.folder
          return (try folder.link(name), try mountID(at: folder.descriptor, folder.path(name)))
        }
        guard let place = mounts.place(id, in: self), isOutOfReach(link, place) else { continue }
        objections.append("\(task.description): \(name) -> \(link.text): a directory below another mount (mount)")
      }
    }
    return objections
  }

  /// Whether a path on a mount lies below another one that restore leaves where it is: into the others' places it looks before
  /// it puts them there.
  private func isOutOfReach(_ path: [UInt8], _ place: DumpedMounts.Place) -> Bool {
    let list = place.namespace.map { mounts.list($0) } ?? mounts.own
    return list.contains { other in
      other.parent == place.mount.id && other.id != place.mount.id && Mount.remainder(of: path, below: other.point) != nil
        && mounts.own.contains { $0.device == other.device && $0.point == other.point && $0.root == other.root }
    }
  }

  /// Where a file is; `nil` also for what no mount leads to.
  func place(of file: DumpedFile) -> DumpedMounts.Place? { mounts.place(file.info.mountID, in: self) }
}
