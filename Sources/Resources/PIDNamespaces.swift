import CLinux
import Checkpoint
import Glibc
import Linux
import ProcessTree
import SystemPackage

/// The PID namespaces of a tree: the tool's own, those that tasks live in or have their children born in, and those between.
///
/// Namespaces are known by their inode. A namespace that `unshare(2)` made and nobody was born in has none that could be seen.
public struct PIDNamespaces {
  /// The number that images have for the namespace of the tool.
  public static let ownID: UInt32 = 1
  /// The number that images have for the tool's user namespace.
  public static let ownUserID: UInt32 = 8
  /// The first number of the others.
  private static let firstID: UInt32 = 16

  struct Namespace {
    var id: UInt32
    var parent: UInt32?
    var level: Int
    /// By the user namespace that the tool is in.
    var isOwned: Bool
    var isDead = false
  }

  private(set) var all: [Namespace]
  private var byInode: [UInt64: Int] = [:]
  private let ownInode: UInt64
  private let ownUserInode: UInt64

  /// Finds out which namespaces this process lives in.
  public init() throws(Errno) {
    ownUserInode = UInt64(try fstat(at: AT_FDCWD, "/proc/self/ns/user").st_ino)
    ownInode = UInt64(try fstat(at: AT_FDCWD, "/proc/self/ns/pid").st_ino)
    byInode[ownInode] = 0
    all = [Namespace(id: Self.ownID, parent: nil, level: 0, isOwned: true)]
  }

  /// Notes in which namespace a task lives, and in which one its children will. An objection in words, if there is one.
  ///
  /// - Parameters: the inodes of `ns/pid` and `ns/pid_for_children`; the latter is 0 where the namespace has had no task yet
  ///   (kernel/pid_namespace.c: pidns_for_children_get).
  public mutating func look(at task: DumpedTask, inode: UInt64, forChildren: UInt64) throws(Errno) -> String? {
    if inode == ownInode, forChildren == inode { return nil }
    let home = try place(of: task, "ns/pid")
    task.pidNamespace = all[home].id
    guard all[home].level == task.status.levelCount - 1 else {
      return
        "\(task.description): /proc shows \(task.status.levelCount) PIDs of it, but its namespace is nested \(all[home].level) deep (pid-ns)"
    }
    if forChildren == inode { return nil }
    if forChildren == 0 {
      task.pidNamespaceForChildren = add(parent: home, isOwned: true)
      return nil
    }
    let inner = try place(of: task, "ns/pid_for_children")
    task.pidNamespaceForChildren = all[inner].id
    return nil
  }

  @discardableResult
  private mutating func add(parent: Int, isOwned: Bool) -> UInt32 {
    let id = Self.firstID + UInt32(all.count)
    all.append(
      Namespace(id: id, parent: all[parent].id, level: all[parent].level + 1, isOwned: isOwned))
    return id
  }

  private mutating func place(of task: DumpedTask, _ link: String) throws(Errno) -> Int {
    try place(of: try task.directory.open(link))
  }

  /// Goes outwards until a namespace is known; this process's own is (man 2 ioctl_nsfs, NS_GET_PARENT).
  private mutating func place(of namespace: consuming Descriptor) throws(Errno) -> Int {
    let inode = UInt64(try fstat(at: namespace.rawValue).st_ino)
    if let known = byInode[inode] { return known }
    let outer = try place(of: Descriptor(Int32(try syscall(__NR_ioctl, Int(namespace.rawValue), 0xb702))))
    let new = all.count
    add(parent: outer, isOwned: try isOwned(namespace.rawValue))
    byInode[inode] = new
    all[new].isDead = !hasInit(namespace.rawValue)
    return new
  }

  /// Whether the namespace belongs to the user namespace that this process is in (NS_GET_USERNS). One further out cannot be named.
  private func isOwned(_ namespace: Int32) throws(Errno) -> Bool {
    let owner = cl_syscall(Int(__NR_ioctl), Int(namespace), 0xb701, 0, 0, 0, 0)
    if owner == -Int(EPERM) { return false }
    guard owner >= 0 else { throw Errno(rawValue: Int32(-owner)) }
    let descriptor = Descriptor(Int32(owner))
    return UInt64(try fstat(at: descriptor.rawValue).st_ino) == ownUserInode
  }

  /// Whether PID 1 of a namespace is there still (NS_GET_PID_FROM_PIDNS, since Linux 6.11; without it none is taken for dead).
  private func hasInit(_ namespace: Int32) -> Bool {
    let pid = cl_syscall(Int(__NR_ioctl), Int(namespace), 0x8004_b706, 1, 0, 0, 0)
    return pid != -Int(ESRCH)
  }

  /// The namespaces as the fork schedule wants them.
  public var recorded: [RecordedNamespace] {
    all.map {
      RecordedNamespace(
        id: PIDNamespaceID($0.id), parent: $0.parent.map { PIDNamespaceID($0) }, level: $0.level,
        userNamespace: $0.isOwned ? UserNamespaceID(Self.ownUserID) : nil, isDead: $0.isDead)
    }
  }

  /// The number of each by its inode.
  public var ids: [UInt64: UInt32] { byInode.mapValues { all[$0].id } }

  /// Whether there is more than the tool's own.
  public var areNested: Bool { all.count > 1 }

  /// The images of all but the tool's own.
  public var images: [(id: UInt32, entry: PidnsEntry)] {
    all.dropFirst().map { namespace in
      var entry = PidnsEntry()
      entry.parentNsId = namespace.parent
      if namespace.isOwned { entry.ownerUserNsId = Self.ownUserID }
      if namespace.isDead { entry.isDead = true }
      return (namespace.id, entry)
    }
  }

  /// The namespaces that images name, from the innermost named ones outwards.
  ///
  /// - Parameters:
  ///   - ids: the namespaces of tasks.
  ///   - own: that of the tool that dumped them.
  public static func read(_ ids: Set<UInt32>, own: UInt32, _ restore: RestoreContext) throws(Failure)
    -> [RecordedNamespace]
  {
    var entries: [UInt32: PidnsEntry] = [:]
    var open = ids.sorted()
    while let id = open.popLast() {
      if id == own || entries[id] != nil { continue }
      let entry = try asFailure { () throws(ImageError) in
        try restore.directory.read(PidnsEntry.self, from: .pidns(id))
      }
      entries[id] = entry
      open.append(entry.parentNsId ?? own)
    }
    var levels: [UInt32: Int] = [own: 0]
    func level(of id: UInt32, _ depth: Int) throws(Failure) -> Int {
      if let known = levels[id] { return known }
      // The kernel nests 32 deep (MAX_PID_NS_LEVEL), which ends a circle too.
      guard depth <= 32, let entry = entries[id] else {
        throw Failure("pidns-\(id).img: parent_ns_id: PID namespaces nested more than 32 deep, or in a circle")
      }
      let level = try level(of: entry.parentNsId ?? own, depth + 1) + 1
      levels[id] = level
      return level
    }
    var namespaces = [RecordedNamespace(id: PIDNamespaceID(own), parent: nil, level: 0)]
    for (id, entry) in entries.sorted(by: { $0.key < $1.key }) {
      namespaces.append(
        RecordedNamespace(
          id: PIDNamespaceID(id), parent: PIDNamespaceID(entry.parentNsId ?? own), level: try level(of: id, 0),
          userNamespace: entry.ownerUserNsId.map { UserNamespaceID($0) }, isDead: entry.isDead ?? false))
    }
    return namespaces
  }
}
