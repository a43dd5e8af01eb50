import Checkpoint
import Glibc
import Linux
import SystemPackage

/// One kind of namespace that a tree may have of its own (man 7 namespaces): how it is recorded, and how it is made again.
///
/// Both are done by the tracer, which enters the namespace for a moment. A task of a tree under restore is born in the namespaces
/// of its parent, and enters its own right after its birth.
public protocol NamespaceKind: SendableMetatype {
  /// Its link in `/proc/PID/ns`.
  static var kind: NamespaceInodes.Kind { get }

  /// Its CLONE_NEW flag.
  static var flag: Int32 { get }

  /// Its number among the objects of a task.
  static func id(in ids: TaskKobjIdsEntry) -> UInt32?
  static func set(_ id: UInt32, in ids: inout TaskKobjIdsEntry)

  /// Looks at a namespace when its first task is found.
  static func found(_ namespace: DumpedNamespace, _ table: NamespaceTable) throws(Failure)

  /// What of the namespace cannot be dumped, in words. Nothing has been changed yet.
  static func objections(_ namespace: DumpedNamespace, _ table: NamespaceTable) throws(Failure) -> [String]

  /// Writes the images of the namespace, when all tasks have been recorded.
  static func record(_ namespace: DumpedNamespace, _ dump: DumpContext) throws(Failure)

  /// Reads and checks the images of the namespace, before anything is made.
  static func check(_ id: UInt32, _ restore: RestoreContext) throws(Failure)

  /// Makes the namespace again; it lives as long as the descriptor, or a task in it.
  static func make(_ id: UInt32, _ restore: RestoreContext) throws(Failure) -> Descriptor

  /// What has to wait until every task has its memory.
  static func finish(_ id: UInt32, _ restore: RestoreContext) throws(Failure)
}

extension NamespaceKind {
  /// Its name in `/proc/PID/ns`; with "-ns" the word for it in messages.
  public static var name: String { kind.rawValue }

  public static func found(_ namespace: DumpedNamespace, _ table: NamespaceTable) throws(Failure) {}
  public static func objections(_ namespace: DumpedNamespace, _ table: NamespaceTable) throws(Failure) -> [String] { [] }
  public static func finish(_ id: UInt32, _ restore: RestoreContext) throws(Failure) {}
}

/// All kinds that can be dumped and restored, in the order in which they are made: mounts may be of other namespaces.
public let namespaceKinds: [any NamespaceKind.Type] = [
  UTSNamespace.self, IPCNamespace.self, MountNamespace.self,
]

/// A namespace of a tree under dump.
public final class DumpedNamespace {
  public let kind: any NamespaceKind.Type
  /// The N of its images.
  public let id: UInt32
  /// Its number in nsfs.
  public let inode: UInt64
  /// The first task that lives in it.
  public let task: DumpedTask
  public let descriptor: Descriptor

  init(
    _ kind: any NamespaceKind.Type, id: UInt32, inode: UInt64, task: DumpedTask, descriptor: consuming Descriptor
  ) {
    self.kind = kind
    self.id = id
    self.inode = inode
    self.task = task
    self.descriptor = descriptor
  }

  /// "task 12 (bash): its namespace uts:[4026532177]"
  public var description: String { "\(task.description): its namespace \(kind.name):[\(inode)]" }

  /// Runs `body` with the tracer in the namespace.
  func visit<T: ~Copyable>(_ body: () throws(Failure) -> T) throws(Failure) -> T {
    try about(description) { () throws(Failure) in
      try Visit.run(descriptor.rawValue, kind.flag, body)
    }
  }
}

/// The namespaces of a tree under dump, but for those that the tracer lives in too.
public final class NamespaceTable {
  public private(set) var namespaces: [DumpedNamespace] = []
  /// Those who live in any, own or not.
  private(set) var tasks: [DumpedTask] = []
  let mounts: DumpedMounts
  /// The numbers of the tree's PID namespaces and of those around them, by inode; known when all tasks have been looked at.
  public var pidNamespaceIDs: [UInt64: UInt32] = [:]
  /// The tracer's own, in the order of `namespaceKinds`.
  private let own: [UInt64]

  /// Numbers up to this are those of the tracer's own (``ownIDs``).
  private static let lastOwnID: UInt32 = 16

  /// Numbers of the namespaces that a task shares with the tracer.
  public static let ownIDs: TaskKobjIdsEntry = {
    var ids = TaskKobjIdsEntry()
    (ids.pidNsId, ids.netNsId, ids.ipcNsId, ids.utsNsId) = (1, 2, 3, 4)
    (ids.timeNsId, ids.mntNsId, ids.userNsId, ids.cgroupNsId) = (5, 6, 7, 8)
    return ids
  }()

  public init() throws(Errno) {
    let inodes = NamespaceInodes(folder: .ownThread)
    var own: [UInt64] = []
    for kind in namespaceKinds { own.append(try inodes.inode(kind.kind)) }
    self.own = own
    mounts = try DumpedMounts()
  }

  /// Finds out which namespaces a task lives in, by their inodes.
  public func look(at task: DumpedTask, inodes: (NamespaceInodes.Kind) -> UInt64) throws(Failure) {
    tasks.append(task)
    var new: [DumpedNamespace] = []
    try about("\(task.description): reading its namespaces") { () throws(Errno) in
      for (kind, own) in zip(namespaceKinds, own) {
        let inode = inodes(kind.kind)
        if inode == own { continue }
        if let known = namespaces.first(where: { $0.inode == inode }) {
          task.namespaces.append(known)
          continue
        }
        let namespace = DumpedNamespace(
          kind, id: Self.lastOwnID + 1 + UInt32(namespaces.count), inode: inode, task: task,
          descriptor: try task.directory.open("ns/" + kind.name))
        namespaces.append(namespace)
        task.namespaces.append(namespace)
        new.append(namespace)
      }
    }
    for namespace in new { try namespace.kind.found(namespace, self) }
  }

  /// What of them cannot be dumped.
  public func objections() throws(Failure) -> [String] {
    var objections: [String] = []
    for namespace in namespaces { objections += try namespace.kind.objections(namespace, self) }
    return try objections + objectionsToDirectories()
  }

  public func record(_ dump: DumpContext) throws(Failure) {
    for namespace in namespaces { try namespace.kind.record(namespace, dump) }
  }
}

extension DumpedTask {
  /// The namespace of a kind that it lives in; `nil` if that is the tracer's.
  func namespace(_ kind: any NamespaceKind.Type) -> DumpedNamespace? { namespaces.first { $0.kind == kind } }
}
