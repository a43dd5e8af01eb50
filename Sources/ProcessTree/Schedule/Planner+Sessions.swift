extension Planner {
  /// A session is inherited at birth, so a task whose session is not its parent's was either born before the
  /// parent's `setsid`, or below a session leader that was itself below the parent.
  mutating func settleBirthSessions() throws(ScheduleError) {
    entries = Array(repeating: [], count: index.sessions.count)
    var ranges = index.sessions.map(\.range)
    // Where the leader is above the parent there is no choice; dead leaders and inits leave the most. An
    // unusual exit signal leaves less, because orphans have none.
    var byChoice: [[Int]] = [[], [], [], []]
    for task in index.preorder.reversed() where task != index.root && !index.leadsSession(task) {
      let (session, parent) = (index.session[task], index.parent[task])
      let leader = index.sessions[session].leader
      let isForced = session == TreeIndex.outside || leader.map { index.isBelow(parent, $0) } ?? false
      let isInit = index.isInit(parent) && parent != index.root
      if isForced, !isInit {
        byChoice[0].append(task)
      } else if leader != nil, !isInit {
        byChoice[1].append(task)
      } else {
        byChoice[nodes[task].exitSignal == .child && !shares(task, with: parent) ? 3 : 2].append(task)
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
    var (member, parent) = (task, parent)
    while nodes[parent].session != session, nodes[parent].birthSession != session {
      if session != TreeIndex.outside, isLed(session, below: parent, ranges) {
        return addEntry(session, parent)
      }
      let canBeBorn = canBeBorn(parent, in: session)
      let isStranger = index.namespace[member] != index.namespace[parent] && !index.isInit(member)
      let isNear = parent != index.root && nodes[index.parent[parent]].session == session && !isStranger
      let isRelated = isNear || shares(member, with: parent)
      if canFall(member, to: parent, from: session), !(canBeBorn && isRelated) {
        if session == TreeIndex.outside { needsOutsideCarrier = true }
        return
      }
      guard canBeBorn else {
        guard session != TreeIndex.outside, canLead(session, below: parent) else {
          throw .sessionOutOfReach(TaskID(task), index.sessions[session].numbers.first ?? .invisible)
        }
        return addEntry(session, parent)
      }
      nodes[parent].birthSession = session
      let start = min(ranges[session]?.lowerBound ?? .max, index.enter[parent])
      ranges[session] = start..<max(ranges[session]?.upperBound ?? 0, index.enter[parent] + 1)
      (member, parent) = (parent, index.parent[parent])
    }
  }

  /// Whether two tasks share an object, as creator and child do.
  private func shares(_ task: Int, with other: Int) -> Bool {
    Self.sharedObjects.contains {
      let id = nodes[task].shares[keyPath: $0]
      return id != nil && id == nodes[other].shares[keyPath: $0]
    }
  }

  private mutating func addEntry(_ session: Int, _ parent: Int) {
    if entries[session].last != parent { entries[session].append(parent) }
  }

  /// Whether a task leads a session now and may have been born in this one. The first task of a namespace
  /// cannot be born in a session that is led inside it.
  private func canBeBorn(_ task: Int, in session: Int) -> Bool {
    guard index.leadsSession(task), nodes[task].birthSession == nil else { return false }
    if session == TreeIndex.outside { return true }
    let (home, led) = (index.namespace[task], index.sessions[session].namespace)
    return index.isNested(home, in: led) && !(index.isInit(task) && home == led)
  }

  /// Whether a task may be an orphan that fell to an init: somebody made it who entered the namespace, in a
  /// session led around it, or led by one who entered.
  private func canFall(_ task: Int, to parent: Int, from session: Int) -> Bool {
    guard index.isInit(parent), parent != index.root, nodes[task].exitSignal == .child
    else { return false }
    return session == TreeIndex.outside
      || index.isNested(index.namespace[parent], in: index.sessions[session].namespace)
  }

  /// Whether the leader of a session can live below a task.
  private func canLead(_ session: Int, below parent: Int) -> Bool {
    index.isNested(index.sessions[session].namespace, in: index.namespace[parent])
  }

  /// Whether the leader's place, or all that is left of its session, is below a task.
  private func isLed(_ session: Int, below parent: Int, _ ranges: [Range<Int>?]) -> Bool {
    if let leader = index.sessions[session].leader {
      return leader != parent && index.isBelow(leader, parent)
    }
    guard let range = ranges[session], canLead(session, below: parent) else { return false }
    return index.enter[parent] < range.lowerBound && range.upperBound <= index.leave[parent]
  }

  /// A session whose leader is gone is led by a helper below the innermost task that has members as children.
  mutating func placeSessionLeaders() throws(ScheduleError) {
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
    struct Pair: Hashable {
      var parent: Int
      var session: Int
    }
    var unusualSignals: [Pair: SignalNumber] = [:]
    for task in index.tree.tasks.indices where nodes[task].exitSignal != .child {
      guard let session = nodes[task].birthSession else { continue }
      unusualSignals[Pair(parent: index.parent[task], session: session)] = nodes[task].exitSignal
    }
    for session in index.sessions.indices.dropFirst() where sessionLeaders[session] == nil {
      let numbers = index.sessions[session].numbers
      // Without members above it, all that matters is that it can live in its namespace.
      let home = index.sessions[session].namespace
      let parent =
        try innermostEntry(session) ?? inits[home].flatMap { isHelper($0) ? nil : $0 } ?? index.root
      guard canLead(session, below: parent) else { throw .sessionOutOfReach(TaskID(parent), numbers[0]) }
      let leader = addHelper(
        .session(numbers[0]), pids: numbers, namespace: index.sessions[session].namespace, session: session,
        birthSession: nodes[parent].session, creator: parent)
      nodes[leader].exitSignal = unusualSignals[Pair(parent: parent, session: session)] ?? .child
      sessionLeaders[session] = leader
      nodes[parent].late.append(leader)
    }
    if needsOutsideCarrier { _ = outsideCarrier() }
    for (leader, parent) in detached { try detach(leader, below: parent) }
  }

  /// Somebody has to be left in the tool's session when a namespace is there that its members fall into.
  mutating func outsideCarrier() -> Int {
    if let known = sessionLeaders[TreeIndex.outside] { return known }
    guard nodes[index.root].session != TreeIndex.outside else {
      sessionLeaders[TreeIndex.outside] = index.root
      return index.root
    }
    let carrier = addHelper(
      .outsideSession, pids: [], namespace: index.namespace[index.root], session: TreeIndex.outside,
      birthSession: TreeIndex.outside, creator: index.root)
    nodes[carrier].isEarly = true
    nodes[index.root].early.insert(carrier, at: 0)
    sessionLeaders[TreeIndex.outside] = carrier
    return carrier
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
    guard leader != index.root, index.isBelow(parent, index.parent[leader]),
      index.namespace[parent] == index.namespace[index.parent[leader]],
      index.isNested(index.namespace[leader], in: index.namespace[parent])
    else {
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
