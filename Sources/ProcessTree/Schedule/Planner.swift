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
    /// Clones that the node makes while it is in its birth session, then those it makes afterwards.
    var early: [Int] = []
    var late: [Int] = []
    /// Helpers that it makes to carry the ID of a group.
    var groupLeaders: [Int] = []
    /// For a helper that leaves orphans: who gets them.
    var reaper: Int?
    /// For a helper that carries or keeps a recorded group: which one.
    var carriedGroup: Int?
    /// What it shares with its creator and with those that it creates.
    var shares = RecordedTask.Shares()
    var order = -1
    var depth = 0
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
  private var orphanMakers: [Pair: Int] = [:]

  struct Pair: Hashable {
    var parent: Int
    var session: Int
  }

  init(_ index: TreeIndex) throws(ScheduleError) {
    self.index = index
    for (task, record) in index.tree.tasks.enumerated() {
      nodes.append(
        Node(
          actor: .task(record.id), pids: record.pids, namespace: index.namespace[task],
          exitSignal: record.exitSignal, session: index.session[task],
          birthSession: index.leadsSession(task) ? nil : index.session[task],
          shares: record.isZombie ? RecordedTask.Shares() : record.shares))
    }
    nodes[index.root].birthSession = TreeIndex.outside
    try settleBirthSessions()
    try placeSessionLeaders()
    try settleCreators()
    placeGroupLeaders()
    placeGroupKeepers()
    try sortIntoPreorder()
    try carryShares()
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

// MARK: Which session a task is born in

extension Planner {
  /// A session is inherited at birth, so a task whose session is not its parent's was either born before the
  /// parent's `setsid`, or below a session leader that was itself below the parent.
  private mutating func settleBirthSessions() throws(ScheduleError) {
    entries = Array(repeating: [], count: index.sessions.count)
    var ranges = index.sessions.map(\.range)
    // Where the leader is above the parent there is no choice; dead leaders leave the most.
    var byChoice: [[Int]] = [[], [], []]
    for task in index.preorder.reversed() where task != index.root && !index.leadsSession(task) {
      let session = index.session[task]
      if session == TreeIndex.outside {
        byChoice[0].append(task)
      } else if let leader = index.sessions[session].leader {
        byChoice[index.isBelow(index.parent[task], leader) ? 0 : 1].append(task)
      } else {
        byChoice[2].append(task)
      }
    }
    for task in byChoice.joined() {
      try demand(index.session[task], below: index.parent[task], for: task, &ranges)
    }
  }

  /// Makes sure that a session can have a member that is a child of `parent`.
  private mutating func demand(
    _ session: Int, below parent: Int, for task: Int, _ ranges: inout [Range<Int>?]
  ) throws(ScheduleError) {
    var parent = parent
    while nodes[parent].session != session, nodes[parent].birthSession != session {
      let canBeBornInIt = index.leadsSession(parent) && nodes[parent].birthSession == nil
      if session != TreeIndex.outside, isLed(session, below: parent, ranges) || !canBeBornInIt {
        if entries[session].last != parent { entries[session].append(parent) }
        return
      }
      guard canBeBornInIt else {
        throw .sessionOutOfReach(TaskID(task), index.sessions[session].numbers.first ?? .invisible)
      }
      nodes[parent].birthSession = session
      let start = min(ranges[session]?.lowerBound ?? .max, index.enter[parent])
      ranges[session] = start..<max(ranges[session]?.upperBound ?? 0, index.enter[parent] + 1)
      parent = index.parent[parent]
    }
  }

  /// Whether the leader's place, or all that is left of its session, is below a task.
  private func isLed(_ session: Int, below parent: Int, _ ranges: [Range<Int>?]) -> Bool {
    if let leader = index.sessions[session].leader {
      return leader != parent && index.isBelow(leader, parent)
    }
    guard let range = ranges[session] else { return false }
    return index.enter[parent] < range.lowerBound && range.upperBound <= index.leave[parent]
  }

  /// A session whose leader is gone is led by a helper below the innermost task that has members as children.
  private mutating func placeSessionLeaders() throws(ScheduleError) {
    sessionLeaders = index.sessions.map(\.leader)
    for session in index.sessions.indices.dropFirst() {
      let above = entries[session]
      let deepest = above.max { index.depth[$0] < index.depth[$1] }
      if let deepest, let stray = above.first(where: { !index.isBelow(deepest, $0) }) {
        throw .sessionOutOfReach(TaskID(stray), index.sessions[session].numbers[0])
      }
      if let leader = index.sessions[session].leader {
        if let deepest, !index.isBelow(leader, deepest) || leader == deepest {
          throw .sessionOutOfReach(TaskID(deepest), index.sessions[session].numbers[0])
        }
        continue
      }
      guard let deepest else {
        let member = index.preorder[index.sessions[session].range?.lowerBound ?? 0]
        throw .sessionOutOfReach(TaskID(member), index.sessions[session].numbers[0])
      }
      let numbers = index.sessions[session].numbers
      let leader = addHelper(
        .session(numbers[0]), pids: numbers, namespace: index.sessions[session].namespace, session: session,
        birthSession: nodes[deepest].session, creator: deepest)
      sessionLeaders[session] = leader
      nodes[deepest].late.append(leader)
    }
  }
}

// MARK: Who makes a task

extension Planner {
  private mutating func settleCreators() throws(ScheduleError) {
    nodes[index.root].creator = Self.tool
    nodes[index.root].firstParent = Self.tool
    for task in index.preorder where task != index.root {
      // The creator of a task may depend on where its session's leader is born, and so on upwards.
      var pending: [Int] = []
      var next: Int? = task
      while let at = next, nodes[at].creator == Self.undecided, pending.count <= nodes.count {
        pending.append(at)
        next = leaderThatMakes(at)
      }
      guard pending.count <= nodes.count else {
        throw .unsupported(TaskID(task), "its session's leaders need each other")
      }
      for at in pending.reversed() { try settleCreator(of: at) }
    }
  }

  /// The session leader below the parent that has to make the task, where the parent itself cannot.
  private func leaderThatMakes(_ task: Int) -> Int? {
    let parent = index.parent[task]
    guard let session = nodes[task].birthSession, session != nodes[parent].session,
      session != nodes[parent].birthSession
    else { return nil }
    return sessionLeaders[session]
  }

  private mutating func settleCreator(of task: Int) throws(ScheduleError) {
    let parent = index.parent[task]
    guard let leader = leaderThatMakes(task) else {
      nodes[task].firstParent = parent
      nodes[task].creator = parent
      if let session = nodes[task].birthSession, session != nodes[parent].session {
        nodes[parent].early.append(task)
      } else {
        nodes[task].birthSession = nodes[parent].session
        nodes[parent].late.append(task)
      }
      return
    }
    let isHelper = leader >= index.tree.tasks.count
    let signal = nodes[task].exitSignal
    if isHelper, signal != .child, nodes[leader].late.isEmpty { nodes[leader].exitSignal = signal }
    if nodes[leader].firstParent == parent, nodes[leader].exitSignal == signal {
      (nodes[task].creator, nodes[task].isSibling, nodes[task].firstParent) = (leader, true, parent)
      nodes[leader].late.append(task)
      return
    }
    guard signal == .child else { throw .orphanWithExitSignal(TaskID(task), signal) }
    let maker = orphanMaker(for: Pair(parent: parent, session: nodes[leader].session), leader: leader)
    (nodes[task].creator, nodes[task].firstParent) = (maker, maker)
    nodes[maker].late.append(task)
  }

  /// The helper below a session's leader whose exit hands its children to a task above that leader.
  private mutating func orphanMaker(for pair: Pair, leader: Int) -> Int {
    if let known = orphanMakers[pair] { return known }
    let maker = addHelper(
      .parentOfOrphans, pids: [], namespace: nodes[leader].namespace, session: pair.session,
      birthSession: pair.session, creator: leader)
    nodes[maker].reaper = pair.parent
    nodes[leader].late.append(maker)
    orphanMakers[pair] = maker
    return maker
  }

  /// A group whose leader is gone is led by a helper that one of its members makes.
  private mutating func placeGroupLeaders() {
    var sessionByNumber: [PID: Int] = [:]
    for (session, entry) in index.sessions.enumerated().dropFirst() {
      sessionByNumber[entry.numbers[0]] = session
    }
    groupLeaders = index.groups.map(\.leader)
    for group in index.groups.indices.dropFirst() where groupLeaders[group] == nil {
      let entry = index.groups[group]
      if let session = sessionByNumber[entry.numbers[0]] {
        groupLeaders[group] = sessionLeaders[session]
        if let leader = sessionLeaders[session] { nodes[leader].carriedGroup = group }
        continue
      }
      let member = entry.members.min { index.enter[$0] < index.enter[$1] } ?? index.root
      let leader = addHelper(
        .group(entry.numbers[0]), pids: entry.numbers, namespace: entry.namespace, session: entry.session,
        birthSession: entry.session, creator: member)
      groupLeaders[group] = leader
      nodes[leader].carriedGroup = group
      nodes[member].groupLeaders.append(leader)
    }
  }

  /// A group that its living leader leaves needs somebody who stays in it. Where all members come from
  /// groups that they lead, and so wait for each other, that is a helper.
  private mutating func placeGroupKeepers() {
    for task in index.tree.tasks.indices {
      guard let led = index.ledGroup[task], index.group[task] != led,
        index.groups[led].members.allSatisfy({ index.ledGroup[$0] != nil })
      else { continue }
      let session = index.session[task]
      let keeper = addHelper(
        .groupKeeper(index.groups[led].numbers[0]), pids: [], namespace: index.namespace[task],
        session: session, birthSession: session, creator: task)
      nodes[keeper].carriedGroup = led
      nodes[task].late.append(keeper)
      groupKeepers[task] = keeper
    }
  }

  private mutating func sortIntoPreorder() throws(ScheduleError) {
    order.reserveCapacity(nodes.count)
    var stack = [index.root]
    while let node = stack.popLast() {
      nodes[node].order = order.count
      order.append(node)
      for child in (nodes[node].early + nodes[node].groupLeaders + nodes[node].late).reversed() {
        nodes[child].depth = nodes[node].depth + 1
        stack.append(child)
      }
    }
    if let lost = nodes.firstIndex(where: { $0.order < 0 }) {
      throw .unsupported(TaskID(min(lost, index.tree.tasks.count - 1)), "its creators need each other")
    }
  }
}
