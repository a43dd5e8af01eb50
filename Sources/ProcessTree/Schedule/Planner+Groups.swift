extension Planner {
  /// A group whose leader is gone is led by a helper, made by a member that sees the group, or by the session's
  /// leader, who sees all of them.
  mutating func placeGroupLeaders() {
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
      let member = entry.members.first { index.isVisible(group, from: index.namespace[$0]) }
      let creator: Int
      if let member {
        creator = member
      } else if entry.session == TreeIndex.outside {
        creator = outsideCarrier()
      } else {
        creator = sessionLeaders[entry.session] ?? index.root
      }
      let leader = addHelper(
        .group(entry.numbers[0]), pids: entry.numbers, namespace: entry.namespace, session: entry.session,
        birthSession: entry.session, creator: creator)
      groupLeaders[group] = leader
      nodes[leader].carriedGroup = group
      if nodes[creator].namespace == entry.namespace {
        nodes[creator].groupLeaders.append(leader)
      } else {
        nodes[creator].late.append(leader)
      }
    }
  }

  /// A group that its living leader leaves needs somebody who stays in it. Where all members come from
  /// groups that they lead, and so wait for each other, that is a helper.
  mutating func placeGroupKeepers() {
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

  /// A task cannot join a group that is not visible in its namespace. It inherits it, or its parent, who sees
  /// it, puts the task there.
  mutating func settleInheritedGroups() throws(ScheduleError) {
    var inherits = Array(repeating: false, count: nodes.count)
    for node in order.reversed() {
      if !isHelper(node), !index.leadsSession(node) { try needOwnGroup(node) }
      guard let needed = nodes[node].neededGroup else { continue }
      inherits[node] = try settle(node, in: needed)
    }
    inherits += Array(repeating: false, count: nodes.count - inherits.count)
    for node in nodes.indices {
      if nodes[node].late.contains(where: { inherits[$0] }) {
        if !isHelper(node), index.ledGroup[node] == nil {
          nodes[node].joinsLast = true
        } else {
          nodes[node].inheriting = nodes[node].late.filter { inherits[$0] }
          nodes[node].late.removeAll { inherits[$0] }
        }
      }
      for list in [\Node.early, \.inheriting, \.late] { putWaitingLast(list, of: node) }
    }
  }

  /// Finds out how a node gets into a group at birth; returns whether its creator has to be in it for that while
  /// it makes children with its final session.
  private mutating func settle(_ node: Int, in needed: Int) throws(ScheduleError) -> Bool {
    let (creator, parent) = (nodes[node].creator, nodes[node].firstParent)
    if parent >= 0, index.isVisible(needed, from: nodes[parent].namespace),
      session(of: parent, whileMaking: node) == nodes[node].birthSession
    {
      nodes[node].isAdopted = true
      return false
    }
    guard creator >= 0 else {
      guard needed == TreeIndex.outside else { throw outOfReach(needed, node) }
      return false
    }
    if !nodes[node].isEarly, leadsSession(creator) {
      if carriedGroup(of: creator) == needed { return false }
      guard nodes[node].isSibling, index.isVisible(needed, from: nodes[creator].namespace) else {
        throw outOfReach(needed, node)
      }
      addGroupEntry(for: node, in: needed)
      return false
    }
    if nodes[creator].neededGroup ?? needed == needed, index.group(ifTask: creator) ?? needed == needed {
      nodes[creator].neededGroup = needed
    } else if canBeMoved(creator, to: needed) {
      nodes[node].movesCreator = true
    } else if index.isInit(parent), parent != index.root, canBeReplanned(node) {
      try replan(node, in: needed)
      return false
    } else if nodes[creator].neededGroup ?? needed == needed {
      nodes[creator].neededGroup = needed
    } else {
      throw outOfReach(needed, node)
    }
    return !nodes[node].isEarly && !staysInGroup(creator, needed)
  }

  /// Whether a creator is in the group from birth to the end.
  private func staysInGroup(_ node: Int, _ group: Int) -> Bool {
    if isHelper(node) { return nodes[node].carriedGroup == nil }
    return index.group[node] == group && index.ledGroup[node] == nil
  }

  /// Puts a helper between a node and the sibling that creates it, which joins the group that the node needs.
  private mutating func addGroupEntry(for node: Int, in needed: Int) {
    let (creator, session) = (nodes[node].creator, nodes[node].session)
    let entry = addHelper(
      .groupEntry(index.groups[needed].numbers.first ?? .invisible), pids: [],
      namespace: nodes[creator].namespace, session: session, birthSession: session, creator: creator)
    nodes[entry].exitSignal = nodes[node].exitSignal
    (nodes[entry].isSibling, nodes[entry].firstParent) = (true, nodes[node].firstParent)
    nodes[entry].joinedGroup = needed
    nodes[entry].shares = nodes[creator].birthShares
    nodes[entry].birthShares = nodes[creator].birthShares
    nodes[entry].late = [node]
    nodes[node].creator = entry
    nodes[creator].late.removeAll { $0 == node }
    nodes[creator].late.append(entry)
  }

  /// Whether a task may as well be an orphan of somebody who entered its parent's namespace.
  private func canBeReplanned(_ node: Int) -> Bool {
    let session = nodes[node].birthSession ?? nodes[node].session
    return nodes[node].creator == index.parent(ifTask: node) && nodes[node].exitSignal == .child
      && (session == TreeIndex.outside || sessionLeaders[session] != nil)
      && inits[nodes[node].namespace] != node
      && !Self.sharedObjects.contains {
        let id = nodes[node].birthShares[keyPath: $0]
        let creator = nodes[nodes[node].creator]
        return id != nil && (id == creator.shares[keyPath: $0] || id == creator.birthShares[keyPath: $0])
      }
  }

  /// Lets an init's child fall to it as an orphan of somebody who entered the namespace, in the group it needs.
  private mutating func replan(_ node: Int, in needed: Int) throws(ScheduleError) {
    let creator = nodes[node].creator
    let session = nodes[node].birthSession ?? nodes[node].session
    guard let leader = session == TreeIndex.outside ? outsideCarrier() : sessionLeaders[session] else {
      throw outOfReach(needed, node)
    }
    let maker = orphanMaker(for: node, leader: leader)
    if nodes[node].isEarly {
      nodes[creator].early.removeAll { $0 == node }
    } else {
      nodes[creator].late.removeAll { $0 == node }
    }
    (nodes[node].creator, nodes[node].firstParent, nodes[node].isEarly) = (maker, maker, false)
    nodes[maker].late.append(node)
    nodes[maker].neededGroup = needed
    nodes[maker].isAdopted = index.isVisible(needed, from: nodes[leader].namespace)
    guard nodes[maker].isAdopted || carriedGroup(of: leader) == needed
      || needed == TreeIndex.outside && leadersAreOutside(leader)
    else { throw outOfReach(needed, node) }
  }

  /// Whether a member of the outside session is in the outside group for good.
  private func leadersAreOutside(_ node: Int) -> Bool {
    isHelper(node) || index.group[node] == TreeIndex.outside
  }

  private mutating func needOwnGroup(_ task: Int) throws(ScheduleError) {
    let group = index.group[task]
    guard !index.isVisible(group, from: index.namespace[task]), !canBeMovedLater(task, to: group) else { return }
    guard index.ledGroup[task] == nil, nodes[task].neededGroup ?? group == group else {
      throw outOfReach(group, task)
    }
    nodes[task].neededGroup = group
  }

  /// Whether the task's parent can put it into the group when everybody is there. After an `execve` it cannot.
  func canBeMovedLater(_ task: Int, to group: Int) -> Bool {
    let parent = nodes[task].firstParent
    return parent >= 0 && index.isVisible(group, from: nodes[parent].namespace)
      && nodes[parent].session == nodes[task].session && nodes[task].birthShares == nodes[task].shares
      && nodes[task].firstSignal == nil
  }

  /// Whether the parent of a task can put it into a group while it makes children, and back where it belongs.
  func canBeMoved(_ node: Int, to group: Int) -> Bool {
    let parent = nodes[node].firstParent
    guard parent >= 0, index.isVisible(group, from: nodes[parent].namespace), !nodes[node].isEarly,
      nodes[parent].session == nodes[node].birthSession, nodes[node].birthShares == nodes[node].shares
    else { return false }
    if isHelper(node) || index.leadsSession(node) { return true }
    let final = index.group[node]
    return index.isVisible(final, from: index.namespace[node]) || canBeMovedLater(node, to: final)
  }

  private func session(of parent: Int, whileMaking node: Int) -> Int? {
    nodes[node].creator == parent && nodes[node].isEarly ? nodes[parent].birthSession : nodes[parent].session
  }

  /// Children that need a group come late, and children in other namespaces last, because the groups and the
  /// namespaces may have to be made first.
  private mutating func putWaitingLast(_ list: WritableKeyPath<Node, [Int]>, of node: Int) {
    let children = nodes[node][keyPath: list]
    func patience(_ child: Int) -> (Int, Int) {
      if nodes[child].movesCreator { return (3, nodes[child].namespace) }
      if nodes[child].namespace != nodes[node].namespace, inits[nodes[child].namespace] != child {
        return (2, nodes[child].namespace)
      }
      return (nodes[child].isAdopted ? 1 : 0, 0)
    }
    guard children.contains(where: { patience($0) != (0, 0) }) else { return }
    let keyed = children.enumerated().map { (patience($0.element), $0.offset, $0.element) }
    nodes[node][keyPath: list] = keyed.sorted {
      ($0.0.0, $0.0.1, $0.1) < ($1.0.0, $1.0.1, $1.1)
    }.map(\.2)
  }

  func leadsSession(_ node: Int) -> Bool {
    nodes[node].session != TreeIndex.outside && sessionLeaders[nodes[node].session] == node
  }

  /// The recorded group that has the node's PID as its ID.
  func carriedGroup(of node: Int) -> Int? { isHelper(node) ? nodes[node].carriedGroup : index.ledGroup[node] }

  private func outOfReach(_ group: Int, _ node: Int) -> ScheduleError {
    .groupOutOfReach(
      TaskID(min(node, index.tree.tasks.count - 1)), index.groups[group].numbers.first ?? .invisible)
  }
}
