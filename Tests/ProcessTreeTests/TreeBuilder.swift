@testable import ProcessTree

/// Trees in a line or two per test: `task(10, parent: 1, session: 1)`.
struct TreeBuilder {
  var tree = RecordedTree(
    tasks: [], namespaces: [RecordedNamespace(id: PIDNamespaceID(0), parent: nil, level: 0)])

  /// A nested namespace; returns its number.
  mutating func namespace(_ number: UInt32, in outer: UInt32 = 0, isDead: Bool = false) {
    let level = tree.namespaces.first { $0.id.rawValue == outer }?.level ?? 0
    tree.namespaces.append(
      RecordedNamespace(
        id: PIDNamespaceID(number), parent: PIDNamespaceID(outer), level: level + 1, isDead: isDead))
  }

  /// A task, found again by its outermost PID. Session and group are its parent's unless told.
  mutating func task(
    _ pids: Int32..., parent: Int32? = nil, session: [Int32]? = nil, group: [Int32]? = nil,
    in namespace: UInt32 = 0, _ change: (inout RecordedTask) -> Void = { _ in }
  ) {
    func inherited(_ list: [PID]?) -> [PID] {
      var list = Array((list ?? []).prefix(pids.count))
      while list.count < pids.count { list.append(.invisible) }
      return list
    }
    let above = tree.tasks.first { $0.pids[0].rawValue == parent }
    let ownSession = session?.map { PID($0) }
    let ownGroup = group?.map { PID($0) }
    var task = RecordedTask(
      id: TaskID(tree.tasks.count), pids: pids.map { PID($0) }, parent: above?.id,
      group: ownGroup ?? ownSession ?? inherited(above?.group),
      session: ownSession ?? inherited(above?.session),
      pidNamespace: PIDNamespaceID(namespace))
    change(&task)
    tree.tasks.append(task)
  }
}

/// A tree of a root that leads session 10, and what else the closure adds.
func tree(_ build: (inout TreeBuilder) -> Void) -> RecordedTree {
  var builder = TreeBuilder()
  builder.task(10, session: [10])
  build(&builder)
  return builder.tree
}

extension ForkSchedule {
  /// The schedule's lines with PIDs instead of numbers.
  func lines(of tree: RecordedTree) -> [String] {
    description(in: tree).split(separator: "\n").map(String.init)
  }
}
