import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// The namespaces of a tree under restore. They live by descriptors of this process, until tasks enter them.
public struct RestoredNamespaces {
  /// The numbers of the namespaces that the dumping tool lived in, in which tasks are left where this tool is.
  public var own = TaskKobjIdsEntry()
  private var descriptors: [Key: Int32] = [:]
  /// Found by ``check``, in the order of `namespaceKinds`.
  private var found: [Key] = []

  private struct Key: Hashable {
    /// An index of `namespaceKinds`.
    var kind: Int
    var id: UInt32
  }

  public init() {}

  /// Kinds that cannot be made again, and the words for them.
  private static let unsupported: [(name: String, id: @Sendable (TaskKobjIdsEntry) -> UInt32?)] = [
    ("net-ns", { $0.netNsId }), ("user-ns", { $0.userNsId }), ("cgroup-ns", { $0.cgroupNsId }),
    ("time-ns", { $0.timeNsId }),
  ]

  /// The number of a task's namespace of a kind, an index of `namespaceKinds`; 0 if it is the tool's own.
  public func id(_ kind: Int, of task: RestoredTask) -> UInt32 {
    if task.isZombie { return 0 }
    let id = namespaceKinds[kind].id(in: task.ids) ?? 0
    return id == namespaceKinds[kind].id(in: own) ? 0 : id
  }

  /// Finds and checks the namespaces of tasks. Nothing has been made yet.
  public static func check(_ tasks: ArraySlice<RestoredTask>, _ restore: RestoreContext) throws(Failure) {
    for task in tasks where !task.isZombie {
      for (name, id) in unsupported {
        if let theirs = id(task.ids), let own = id(restore.namespaces.own), theirs != own {
          throw Failure(
            "ids-\(task.pid).img: \(task.description): it lived in a namespace of its own (\(name)), which cannot be restored yet")
        }
      }
    }
    for kind in namespaceKinds.indices {
      var known = Set(restore.namespaces.found.filter { $0.kind == kind }.map(\.id) + [0])
      for task in tasks {
        let id = restore.namespaces.id(kind, of: task)
        guard known.insert(id).inserted else { continue }
        try namespaceKinds[kind].check(id, restore)
        // By kinds.
        let place = restore.namespaces.found.firstIndex { $0.kind > kind } ?? restore.namespaces.found.endIndex
        restore.namespaces.found.insert(Key(kind: kind, id: id), at: place)
      }
    }
  }

  /// Whether any task lives in a namespace that is not the tool's own.
  public var areNone: Bool { found.isEmpty }

  /// Makes all of them.
  public static func make(_ restore: RestoreContext) throws(Failure) {
    for key in restore.namespaces.found {
      let kind = namespaceKinds[key.kind]
      restore.namespaces.descriptors[key] = try about("making the \(kind.name) namespace \(key.id)") { () throws(Failure) in
        try kind.make(key.id, restore).release()
      }
    }
    // Children of tasks that live elsewhere may have to come back.
    if restore.namespaces.areNone { return }
    for (i, kind) in namespaceKinds.enumerated() {
      restore.namespaces.descriptors[Key(kind: i, id: 0)] = try about("its own namespace") { () throws(Errno) in
        try Descriptor.open("/proc/thread-self/ns/\(kind.name)").release()
      }
    }
  }

  /// What is left to be done once every task has its memory.
  public static func finish(_ restore: RestoreContext) throws(Failure) {
    for key in restore.namespaces.found { try namespaceKinds[key.kind].finish(key.id, restore) }
  }

  /// A descriptor, in this process, of a namespace that was made, or (0) of this process's own.
  public func descriptor(_ kind: Int, _ id: UInt32) -> Int32 { descriptors[Key(kind: kind, id: id)] ?? -1 }

  func descriptor(of kind: any NamespaceKind.Type, _ id: UInt32) -> Int32 {
    descriptor(namespaceKinds.firstIndex { $0 == kind } ?? 0, id)
  }

  func closeAll() {
    for fd in descriptors.values { _ = cl_syscall(Int(__NR_close), Int(fd), 0, 0, 0, 0, 0) }
  }
}
