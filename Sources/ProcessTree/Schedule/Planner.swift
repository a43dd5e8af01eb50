/// Decides who makes whom, in which session, so that every task can end where it was recorded.
///
/// The plan is a tree of creators. It holds the recorded tasks and the helpers, and it may differ from the
/// recorded tree: a task's creator is its parent, or a sibling (`CLONE_PARENT`), or a helper below its
/// parent that leaves it as an orphan.
struct Planner {
  /// A task of the plan: the recorded tasks come first, under their own index.
  struct Node {
    var actor: ForkSchedule.Actor
    /// Named PIDs, outermost first; empty for a helper that may have any.
    var pids: [PID]
    var namespace: Int
    var exitSignal: SignalNumber
    /// The exit signal that it is born with, where `exec` later makes it SIGCHLD.
    var firstSignal: SignalNumber?
    /// The session that the node ends in.
    var session: Int
    /// The session that it is born in; nil as long as any will do.
    var birthSession: Int?
    /// Who executes the clone; `tool` for the root.
    var creator = Planner.undecided
    /// Whether the clone has `CLONE_PARENT`.
    var isSibling = false
    /// The parent after the clone.
    var firstParent = Planner.undecided
    /// Clones that the node makes while it is in its birth session, then, with its own session, those that
    /// inherit its birth group, then the others.
    var early: [Int] = []
    var inheriting: [Int] = []
    var late: [Int] = []
    /// Helpers that it makes to carry the ID of a group that it may join at once.
    var groupLeaders: [Int] = []
    /// Whether its creator makes it before its own `setsid`.
    var isEarly = false
    /// The group that it must be in from birth, because nobody can put it there later.
    var neededGroup: Int?
    /// Whether its first parent can put it there at birth, if it is not born there.
    var isAdopted = false
    /// Whether it joins its group only when it has made everybody.
    var joinsLast = false
    /// Whether its creator's parent puts the creator there to make it.
    var movesCreator = false
    /// For a helper: the group that it joins before it makes anybody.
    var joinedGroup: Int?
    /// Whether it lives on with the tree, without being recorded.
    var isPersistent = false
    /// For a helper that leaves orphans: who gets them.
    var reaper: Int?
    /// Whether those orphans were under the plan's parent of the helper only to make children there.
    var isDetaching = false
    /// For a helper that carries or keeps a recorded group: which one.
    var carriedGroup: Int?
    /// What it holds in the end, and so shares with those it creates last.
    var shares = RecordedTask.Shares()
    /// What it is born with.
    var birthShares = RecordedTask.Shares()
    /// The last child that shares something the node then lets go of by `unshare`, or by `exec`.
    var unshareAfter: Int?
    var isReplaced = false
    var order = -1
  }

  static let tool = -1
  static let undecided = -2

  let index: TreeIndex
  var nodes: [Node] = []
  var helpers: [ForkSchedule.Helper] = []
  /// The node that leads each session: a recorded task or a helper.
  var sessionLeaders: [Int?] = []
  /// The parents above a session's leader whose children are nevertheless members of it.
  var entries: [[Int]] = []
  /// The node that leads each group.
  var groupLeaders: [Int?] = []
  /// The helper that stays in a task's own group while the task leaves it.
  var groupKeepers: [Int: Int] = [:]
  /// The nodes in preorder of the plan, creators before what they create.
  var order: [Int] = []
  /// The node that the tool makes: the root, or the init of the namespace that it is restored in.
  var top: Int
  var needsOutsideCarrier = false
  var orphanMakers: [OrphanMakerKey: Int] = [:]
  /// Who is PID 1 of each namespace.
  var inits: [Int?] = []
  var freeNumbers: FreeNumbers

  init(_ index: TreeIndex, options: ForkSchedule.Options) throws(ScheduleError) {
    self.index = index
    top = index.root
    freeNumbers = FreeNumbers(index)
    inits = index.namespaces.map(\.initTask)
    nodes.reserveCapacity(index.tree.tasks.count + 16)
    for (task, record) in index.tree.tasks.enumerated() {
      nodes.append(
        Node(
          actor: .task(record.id), pids: record.pids, namespace: index.namespace[task],
          exitSignal: record.exitSignal, session: index.session[task],
          birthSession: index.leadsSession(task) ? nil : index.session[task]))
      if record.isZombie { continue }
      (nodes[task].shares, nodes[task].birthShares) = (record.shares, record.shares)
    }
    nodes[index.root].birthSession = TreeIndex.outside
    (nodes[index.root].creator, nodes[index.root].firstParent) = (Self.tool, Self.tool)
    if options.newPIDNamespace { placeOuterInits(from: options.outermostNamedLevel) }
    try settleBirthSessions()
    try placeSessionLeaders()
    try settleCreators()
    placeGroupLeaders()
    placeGroupKeepers()
    try placeDeadInits()
    try sortIntoPreorder()
    try carryShares()
    try sortIntoPreorder()
    try settleInheritedGroups()
    try orderForUnsharing()
    try sortIntoPreorder()
    try checkReapers()
  }

  /// With a namespace of its own to be restored in, the tree hangs below one init per level around it.
  private mutating func placeOuterInits(from level: Int) {
    var outer: [Int] = []
    var at =
      index.isRootInit ? index.namespaces[index.namespace[index.root]].parent : index.namespace[index.root]
    while at >= 0, index.namespaces[at].level >= level {
      outer.append(at)
      at = index.namespaces[at].parent
    }
    var creator = Self.tool
    for namespace in outer.reversed() {
      let leader = addHelper(
        .namespaceInit, pids: freeNumbers.initPIDs(in: namespace), namespace: namespace,
        session: TreeIndex.outside, birthSession: TreeIndex.outside, creator: creator)
      nodes[leader].isPersistent = true
      inits[namespace] = leader
      if creator == Self.tool { top = leader } else { nodes[creator].late.append(leader) }
      creator = leader
    }
    guard creator != Self.tool else { return }
    (nodes[index.root].creator, nodes[index.root].firstParent) = (creator, creator)
    nodes[creator].late.append(index.root)
  }

  /// A dead namespace is made by an init that exits when everybody who has it for children has entered it.
  private mutating func placeDeadInits() throws(ScheduleError) {
    let dead = index.namespaces.indices.filter { index.namespaces[$0].isDead && inits[$0] == nil }
    for namespace in dead.sorted(by: { index.namespaces[$0].level < index.namespaces[$1].level }) {
      let outer = index.namespaces[namespace].parent
      let holder = index.namespaceForChildren.firstIndex(of: namespace)
      let creator: Int
      if let holder, index.namespace[holder] == outer {
        creator = holder
      } else {
        creator = inits[outer] ?? index.root
      }
      let session = nodes[creator].session
      let leader = addHelper(
        .deadNamespaceInit, pids: freeNumbers.initPIDs(in: namespace), namespace: namespace,
        session: session, birthSession: session, creator: creator)
      inits[namespace] = leader
      nodes[creator].late.append(leader)
    }
  }

  mutating func addHelper(
    _ purpose: ForkSchedule.Helper.Purpose, pids: [PID], namespace: Int, session: Int, birthSession: Int,
    creator: Int
  ) -> Int {
    let id = HelperID(helpers.count)
    helpers.append(
      ForkSchedule.Helper(
        id: id, purpose: purpose, pids: pids, pidNamespace: index.namespaces[namespace].id))
    nodes.append(
      Node(
        actor: .helper(id), pids: pids, namespace: namespace, exitSignal: .child, session: session,
        birthSession: birthSession, creator: creator, firstParent: creator))
    return nodes.count - 1
  }
}

extension Planner {
  /// Orders the nodes so that each comes after its creator.
  private mutating func sortIntoPreorder() throws(ScheduleError) {
    order = []
    order.reserveCapacity(nodes.count)
    for node in nodes.indices { nodes[node].order = -1 }
    var stack = [top]
    while let node = stack.popLast() {
      nodes[node].order = order.count
      order.append(node)
      stack += nodes[node].late.reversed()
      stack += nodes[node].inheriting.reversed()
      stack += nodes[node].groupLeaders.reversed()
      stack += nodes[node].early.reversed()
    }
    if let lost = nodes.firstIndex(where: { $0.order < 0 }) {
      throw .creatorsNeedEachOther(TaskID(min(lost, index.tree.tasks.count - 1)))
    }
  }

  /// Checks that orphans fall to whom they should: to a subreaper above the helper that leaves them, in the same
  /// namespace, or to the namespace's init, wherever that is.
  private func checkReapers() throws(ScheduleError) {
    for node in nodes {
      guard let reaper = node.reaper else { continue }
      var at = node.firstParent
      while at >= 0, at != reaper, nodes[at].namespace == node.namespace { at = nodes[at].firstParent }
      guard at == reaper || inits[node.namespace] == reaper else {
        throw .sessionOutOfReach(TaskID(reaper), index.sessions[node.session].numbers.first ?? .invisible)
      }
    }
  }
}

/// Numbers that the tree does not use, for helpers that need a named PID.
struct FreeNumbers {
  private var used: [Set<PID>]
  private var next: [Int32]
  private let parents: [Int]

  init(_ index: TreeIndex) {
    used = index.usedNumbers()
    next = Array(repeating: 32767, count: used.count)
    parents = index.namespaces.map(\.parent)
  }

  /// The PIDs of an init that lives in the namespace: 1 there, free numbers outside it.
  mutating func initPIDs(in namespace: Int) -> [PID] {
    var pids = [PID.one]
    var at = parents[namespace]
    while at >= 0 {
      while used[at].contains(PID(next[at])) { next[at] -= 1 }
      pids.append(PID(next[at]))
      next[at] -= 1
      at = parents[at]
    }
    return pids.reversed()
  }
}
