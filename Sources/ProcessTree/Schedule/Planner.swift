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
    /// Clones that the node makes while it is in its birth session, then those it makes afterwards.
    var early: [Int] = []
    var late: [Int] = []
    /// Helpers that it makes to carry the ID of a group.
    var groupLeaders: [Int] = []
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
          birthSession: index.leadsSession(task) ? nil : index.session[task]))
      if record.isZombie { continue }
      (nodes[task].shares, nodes[task].birthShares) = (record.shares, record.shares)
    }
    nodes[index.root].birthSession = TreeIndex.outside
    try settleBirthSessions()
    try placeSessionLeaders()
    try settleCreators()
    placeGroupLeaders()
    placeGroupKeepers()
    try sortIntoPreorder()
    try carryShares()
    try sortIntoPreorder()
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
    var detached: [(leader: Int, parent: Int)] = []
    for session in index.sessions.indices.dropFirst() {
      guard let leader = index.sessions[session].leader, let parent = try innermostEntry(session),
        !index.isBelow(leader, parent) || leader == parent
      else { continue }
      detached.append((leader, parent))
      if let birth = nodes[leader].birthSession { entries[birth].append(parent) }
    }
    // A sibling of the leader gets the leader's exit signal, an orphan gets SIGCHLD.
    var unusualSignals: [Pair: SignalNumber] = [:]
    for task in index.tree.tasks.indices where nodes[task].exitSignal != .child {
      guard let session = nodes[task].birthSession else { continue }
      unusualSignals[Pair(parent: index.parent[task], session: session)] = nodes[task].exitSignal
    }
    for session in index.sessions.indices.dropFirst() where sessionLeaders[session] == nil {
      let numbers = index.sessions[session].numbers
      guard let parent = try innermostEntry(session) else {
        let member = index.preorder[index.sessions[session].range?.lowerBound ?? 0]
        throw .sessionOutOfReach(TaskID(member), numbers[0])
      }
      let leader = addHelper(
        .session(numbers[0]), pids: numbers, namespace: index.sessions[session].namespace, session: session,
        birthSession: nodes[parent].session, creator: parent)
      nodes[leader].exitSignal = unusualSignals[Pair(parent: parent, session: session)] ?? .child
      sessionLeaders[session] = leader
      nodes[parent].late.append(leader)
    }
    for (leader, parent) in detached { try detach(leader, below: parent) }
  }

  private func innermostEntry(_ session: Int) throws(ScheduleError) -> Int? {
    let above = entries[session]
    guard let innermost = above.max(by: { index.depth[$0] < index.depth[$1] }) else { return nil }
    if let stray = above.first(where: { !index.isBelow(innermost, $0) }) {
      throw .sessionOutOfReach(TaskID(stray), index.sessions[session].numbers[0])
    }
    return innermost
  }

  /// A leader with members above which it no longer stands was once below their parent: it is born there, and
  /// leaves as an orphan that passes this parent by.
  private mutating func detach(_ leader: Int, below parent: Int) throws(ScheduleError) {
    let session = index.session[leader]
    guard leader != index.root, index.isBelow(parent, index.parent[leader]) else {
      throw .sessionOutOfReach(TaskID(parent), index.sessions[session].numbers[0])
    }
    guard nodes[leader].exitSignal == .child else {
      throw .orphanWithExitSignal(TaskID(leader), nodes[leader].exitSignal)
    }
    var creator = parent
    let birth = nodes[leader].birthSession ?? nodes[parent].session
    if birth != nodes[parent].session {
      guard let other = sessionLeaders[birth], other != leader else {
        throw .sessionOutOfReach(TaskID(leader), index.sessions[birth].numbers.first ?? .invisible)
      }
      creator = other
    }
    let maker = addHelper(
      .parentOfOrphans, pids: [], namespace: nodes[parent].namespace, session: birth, birthSession: birth,
      creator: creator)
    nodes[maker].reaper = index.parent[leader]
    nodes[maker].isDetaching = true
    nodes[maker].late.append(leader)
    nodes[creator].late.append(maker)
    (nodes[leader].creator, nodes[leader].firstParent) = (maker, maker)
    nodes[leader].birthSession = birth
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
    let signal = nodes[task].exitSignal
    if nodes[leader].firstParent == parent, canMakeSibling(leader, with: signal) {
      (nodes[task].creator, nodes[task].isSibling, nodes[task].firstParent) = (leader, true, parent)
      nodes[leader].late.append(task)
      return
    }
    guard signal == .child else { throw .orphanWithExitSignal(TaskID(task), signal) }
    let maker = orphanMaker(for: Pair(parent: parent, session: nodes[leader].session), leader: leader)
    (nodes[task].creator, nodes[task].firstParent) = (maker, maker)
    nodes[maker].late.append(task)
  }

  /// Whether a task can pass this exit signal on: its own, or another that it had before it called `execve`.
  private mutating func canMakeSibling(_ node: Int, with signal: SignalNumber) -> Bool {
    if signal == nodes[node].exitSignal || signal == nodes[node].firstSignal { return true }
    guard !isHelper(node), !nodes[node].isSibling, nodes[node].firstSignal == nil,
      nodes[node].exitSignal == .child
    else { return false }
    nodes[node].firstSignal = signal
    return true
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
    order = []
    order.reserveCapacity(nodes.count)
    for node in nodes.indices { nodes[node].order = -1 }
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
    for node in nodes {
      guard let reaper = node.reaper else { continue }
      var at = node.firstParent
      while at >= 0, at != reaper { at = nodes[at].firstParent }
      guard at == reaper else {
        throw .sessionOutOfReach(TaskID(reaper), index.sessions[node.session].numbers.first ?? .invisible)
      }
    }
  }
}
