/// A recorded tree that has been checked, with its sessions and groups resolved.
///
/// Tasks, sessions, groups and namespaces are plain indexes in here, because every question is asked for
/// thousands of tasks.
struct TreeIndex {
  /// A session. Number 0 is the one that the tool is in.
  struct Session {
    /// The ID at each level where it is known, outermost first; empty for the outside session.
    var numbers: [PID]
    /// The innermost namespace in which the ID is known.
    var namespace: Int
    /// The recorded task that leads it, dead leaders have none.
    var leader: Int?
    /// The smallest part of the preorder of the tree that holds all members.
    var range: Range<Int>?
  }

  /// A process group. Number 0 is the one that the tool is in.
  struct Group {
    var numbers: [PID]
    var namespace: Int
    var session: Int
    var leader: Int?
    var members: [Int] = []
  }

  struct Namespace {
    var id: PIDNamespaceID
    var parent: Int
    var level: Int
    var initTask: Int?
    var taskCount = 0
    var isDead = false
  }

  static let outside = 0

  let tree: RecordedTree
  var root = 0
  /// A task's parent, -1 for the root.
  var parent: [Int] = []
  var children: [[Int]] = []
  /// The tasks in preorder of the tree, parents before children.
  var preorder: [Int] = []
  /// A task's place in preorder and the first place behind its descendants.
  var enter: [Int] = []
  var leave: [Int] = []
  var depth: [Int] = []
  var namespaces: [Namespace] = []
  var namespace: [Int] = []
  /// Where children are born in the end.
  var namespaceForChildren: [Int] = []
  var sessions: [Session] = []
  var session: [Int] = []
  var groups: [Group] = []
  var group: [Int] = []
  /// The group that has a task's PID as its ID, if there is one.
  var ledGroup: [Int?] = []
  /// Whether the tool's group has an ID in the root's namespace.
  var isOutsideVisible = true

  /// The numbers that are used, where others than this tree's tasks use some too.
  private let reserved: [Set<PID>]?

  init(_ tree: RecordedTree, options: ForkSchedule.Options, reserved: [Set<PID>]? = nil) throws(ScheduleError) {
    self.tree = tree
    self.reserved = reserved
    try indexParents()
    try indexNamespaces()
    let taskByPID = try indexPIDs()
    try indexSessions(taskByPID, options: options)
    try indexGroups(taskByPID, options: options)
    try checkViews()
    try checkZombiesAndShares()
    isOutsideVisible = !isRootInit && !options.newPIDNamespace
    guard options.outermostNamedLevel <= namespaces[namespace[root]].level else {
      throw .levelsMissing(TaskID(root), options.outermostNamedLevel)
    }
  }

  func isZombie(_ task: Int) -> Bool { tree.tasks[task].isZombie }

  func leadsSession(_ task: Int) -> Bool { sessions[session[task]].leader == task }

  /// Whether `inner` is `outer` or one of its descendants.
  func isBelow(_ inner: Int, _ outer: Int) -> Bool {
    enter[outer] <= enter[inner] && enter[inner] < leave[outer]
  }

  /// The numbers that tasks, threads, sessions and groups use in each namespace.
  func usedNumbers() -> [Set<PID>] {
    if let reserved { return reserved }
    var numbers = Array(repeating: Set<PID>(), count: namespaces.count)
    func use(_ pids: [PID], in namespace: Int) {
      var at = namespace
      for pid in pids.reversed() {
        if pid != .invisible { numbers[at].insert(pid) }
        at = namespaces[at].parent
      }
    }
    for task in tree.tasks {
      for pids in [task.pids, task.group, task.session] + task.threads {
        use(pids, in: namespace[task.id.index])
      }
    }
    return numbers
  }

  /// Whether the root is PID 1, and so brings a namespace of its own.
  var isRootInit: Bool { tree.tasks[root].pids.last == .one }

  /// Whether a group has an ID in a namespace: where it is its leader's, or lies around it.
  func isVisible(_ group: Int, from namespace: Int) -> Bool {
    if group == Self.outside { return isOutsideVisible && namespace == self.namespace[root] }
    return isNested(groups[group].namespace, in: namespace)
  }

  /// The group and the parent of a node of a plan that is a task with an own choice of group.
  func group(ifTask node: Int) -> Int? {
    guard node < tree.tasks.count, !leadsSession(node), ledGroup[node] == nil else { return nil }
    return isVisible(group[node], from: namespace[node]) ? nil : group[node]
  }
  func parent(ifTask node: Int) -> Int? { node < tree.tasks.count ? parent[node] : nil }

  /// Whether a task is the init of the namespace that it lives in.
  func isInit(_ task: Int) -> Bool {
    task >= 0 && task < tree.tasks.count && namespaces[namespace[task]].initTask == task
  }

  /// Whether a namespace is another one or nested in it.
  func isNested(_ inner: Int, in outer: Int) -> Bool {
    var at = inner
    while namespaces[at].level > namespaces[outer].level { at = namespaces[at].parent }
    return at == outer
  }
}

extension TreeIndex {
  private mutating func indexParents() throws(ScheduleError) {
    let count = tree.tasks.count
    guard count > 0 else { throw .noRoot }
    parent = Array(repeating: -1, count: count)
    children = Array(repeating: [], count: count)
    var roots: [Int] = []
    for (index, task) in tree.tasks.enumerated() {
      guard task.id.index == index else { throw .misnumbered(task.id, place: index) }
      guard let id = task.parent else {
        roots.append(index)
        continue
      }
      guard tree.tasks.indices.contains(id.index) else { throw .unknownParent(task.id) }
      parent[index] = id.index
      children[id.index].append(index)
    }
    guard let first = roots.first else { throw .noRoot }
    guard roots.count == 1 else { throw .severalRoots(TaskID(first), TaskID(roots[1])) }
    root = first
    enter = Array(repeating: -1, count: count)
    leave = enter
    depth = enter
    depth[root] = 0
    var stack = [root]
    while let task = stack.popLast() {
      enter[task] = preorder.count
      preorder.append(task)
      for child in children[task].reversed() {
        depth[child] = depth[task] + 1
        stack.append(child)
      }
    }
    guard preorder.count == count else {
      throw .parentCycle(TaskID(enter.firstIndex(of: -1) ?? root))
    }
    for task in preorder.reversed() {
      leave[task] = children[task].last.map { leave[$0] } ?? enter[task] + 1
    }
  }

  private mutating func indexNamespaces() throws(ScheduleError) {
    var places: [PIDNamespaceID: Int] = [:]
    for entry in tree.namespaces {
      guard places.updateValue(namespaces.count, forKey: entry.id) == nil else {
        throw .badNamespace(entry.id, "it is listed twice")
      }
      namespaces.append(Namespace(id: entry.id, parent: -1, level: entry.level, isDead: entry.isDead))
    }
    for (index, entry) in tree.namespaces.enumerated() {
      guard let id = entry.parent else {
        guard entry.level == 0 else {
          throw .badNamespace(entry.id, "it has no parent and is not at level 0")
        }
        continue
      }
      guard let place = places[id] else { throw .badNamespace(entry.id, "its parent \(id) is not listed") }
      guard namespaces[place].level == entry.level - 1 else {
        throw .badNamespace(entry.id, "its parent \(id) is not one level above it")
      }
      namespaces[index].parent = place
    }
    for task in tree.tasks {
      guard let place = places[task.pidNamespace] else { throw .unknownNamespace(task.id, task.pidNamespace) }
      namespace.append(place)
      namespaces[place].taskCount += 1
      var inner = place
      if let id = task.pidNamespaceForChildren {
        guard let place = places[id] else { throw .unknownNamespace(task.id, id) }
        inner = place
      }
      namespaceForChildren.append(task.isZombie ? place : inner)
      if task.pids.last == .one { namespaces[place].initTask = task.id.index }
    }
    guard namespaces.count(where: { $0.parent < 0 }) == 1 else { throw .severalOutermostNamespaces }
    try checkNamespaces()
  }

  private func checkNamespaces() throws(ScheduleError) {
    for task in tree.tasks {
      let index = task.id.index
      let levels = namespaces[namespace[index]].level + 1
      for list in [task.pids, task.group, task.session] + task.threads where list.count != levels {
        throw .wrongLevelCount(task.id, expected: levels)
      }
      guard isNested(namespaceForChildren[index], in: namespace[index]) else {
        throw .childrenNamespaceNotNested(task.id)
      }
      guard parent[index] < 0 || isNested(namespace[index], in: namespace[parent[index]]) else {
        throw .namespaceAboveParent(task.id)
      }
    }
    for (place, entry) in namespaces.enumerated() {
      if isNested(namespace[root], in: place) { continue }
      guard isNested(place, in: namespace[root]) else {
        throw .badNamespace(entry.id, "it is not nested in the root task's namespace")
      }
      guard entry.taskCount > 0 else { continue }
      guard let leader = entry.initTask else {
        throw .namespaceWithoutInit(entry.id, task: TaskID(firstTask(in: entry)))
      }
      guard !isZombie(leader) || entry.taskCount == 1 else { throw .tasksOutliveInit(TaskID(leader)) }
    }
    for entry in namespaces {
      if let leader = entry.initTask, leader != root, namespace[parent[leader]] == namespace[leader] {
        throw .initInsideItsNamespace(TaskID(leader))
      }
    }
    try checkEmptyNamespaces()
  }

  /// A namespace without tasks is the last `unshare` of one task, unless it is dead.
  private func checkEmptyNamespaces() throws(ScheduleError) {
    var makers: [Int: Int] = [:]
    for task in tree.tasks.indices where namespaceForChildren[task] != namespace[task] {
      let inner = namespaceForChildren[task]
      guard namespaces[inner].taskCount == 0, !namespaces[inner].isDead else { continue }
      guard makers.updateValue(task, forKey: inner) == nil, namespaces[inner].parent == namespace[task] else {
        throw .emptyNamespaceShared(namespaces[inner].id)
      }
    }
  }

  private func firstTask(in entry: Namespace) -> Int {
    tree.tasks.firstIndex { $0.pidNamespace == entry.id } ?? root
  }

  /// Checks that no number is used twice, and returns who has which PID at the outermost level.
  private func indexPIDs() throws(ScheduleError) -> [PID: Int] {
    struct Number: Hashable {
      var namespace: Int
      var pid: PID
    }
    var owners: [Number: Int] = [:]
    var taskByPID: [PID: Int] = [:]
    for (index, task) in tree.tasks.enumerated() {
      for pids in [task.pids] + task.threads {
        var at = namespace[index]
        for pid in pids.reversed() {
          guard pid.rawValue >= 1 else { throw .pidOutOfRange(task.id, pid) }
          if let other = owners.updateValue(index, forKey: Number(namespace: at, pid: pid)) {
            throw .pidTakenTwice(pid, namespaces[at].id, TaskID(other), task.id)
          }
          at = namespaces[at].parent
        }
      }
      if let pid = task.pids.first { taskByPID[pid] = index }
    }
    return taskByPID
  }

  private func checkZombiesAndShares() throws(ScheduleError) {
    var mmOfSighand: [ShareGroupID: ShareGroupID?] = [:]
    for (index, task) in tree.tasks.enumerated() {
      if task.isZombie {
        if let child = children[index].first { throw .zombieHasChild(task.id, child: TaskID(child)) }
        guard task.threads.isEmpty else { throw .zombieHasThreads(task.id) }
        continue
      }
      guard let sighand = task.shares.sighand else { continue }
      if let mm = mmOfSighand.updateValue(task.shares.mm, forKey: sighand), mm != task.shares.mm || mm == nil {
        throw .handlersSharedWithoutMemory(task.id)
      }
    }
  }
}
