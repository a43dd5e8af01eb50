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
    // An init's children that may as well have fallen to it come after those that may not.
    var flexible: [Int: [Int]] = [:]
    for node in order.reversed() {
      if !isHelper(node), !index.leadsSession(node) { try needOwnGroup(node) }
      let children = flexible[node] ?? []
      for child in children.filter({ !isSeenByLeader($0) }) + children.filter(isSeenByLeader) {
        guard let needed = nodes[child].neededGroup else { continue }
        inherits[child] = try settle(child, in: needed)
      }
      guard let needed = nodes[node].neededGroup else { continue }
      if index.isInit(nodes[node].creator), nodes[node].creator != index.root, canBeReplanned(node) {
        flexible[nodes[node].creator, default: []].append(node)
      } else {
        inherits[node] = try settle(node, in: needed)
      }
    }
    inherits += Array(repeating: false, count: nodes.count - inherits.count)
    for node in nodes.indices {
      if nodes[node].late.contains(where: { inherits[$0] }) {
        if !isHelper(node), index.ledGroup[node] == nil {
          nodes[node].joinsLast = true
        } else {
          let late = nodes[node].late
          nodes[node].inheriting = late.filter { inherits[$0] }
          nodes[node].late = late.filter { !inherits[$0] }
        }
      }
      letHelpersWait(\.early, of: node)
      letHelpersWait(\.inheriting, of: node)
      for list in [\Node.early, \.inheriting, \.late] { putWaitingLast(list, of: node) }
    }
  }

  /// Whether the one who would make the node as an orphan could put it into the group that it needs.
  private func isSeenByLeader(_ node: Int) -> Bool {
    let leader = sessionLeaders[nodes[node].birthSession ?? nodes[node].session] ?? index.root
    return nodes[node].neededGroup.map { index.isVisible($0, from: nodes[leader].namespace) } ?? true
  }

  /// Whether an init is easily born in a group, because its creator sees it or is in it.
  private func isNatural(_ group: Int, for leader: Int) -> Bool {
    let creator = nodes[leader].creator
    guard creator >= 0, nodes[leader].neededGroup == nil || nodes[leader].neededGroup == group else {
      return false
    }
    return index.isVisible(group, from: nodes[creator].namespace) || isHelper(creator)
      || index.group[creator] == group
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
    if index.isInit(parent), parent != index.root, canBeReplanned(node), isSeenByLeader(node),
      !isNatural(needed, for: creator)
    {
      try replan(node, in: needed)
      return false
    }
    if nodes[creator].neededGroup ?? needed == needed, index.group(ifTask: creator) ?? needed == needed {
      nodes[creator].neededGroup = needed
    } else if canBeMoved(creator, to: needed) {
      nodes[node].movesCreator = true
    } else if index.isInit(parent), parent != index.root, canBeReplanned(node), isSeenByLeader(node) {
      try replan(node, in: needed)
      return false
    } else if nodes[creator].neededGroup ?? needed == needed {
      nodes[creator].neededGroup = needed
    } else if index.isInit(parent), parent != index.root, canBeReplanned(node) {
      try replan(node, in: needed)
      return false
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
      && (inits[nodes[node].namespace] != node
        || index.namespaces[nodes[node].namespace].parent == nodes[nodes[node].creator].namespace)
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
    guard
      nodes[maker].isAdopted || carriedGroup(of: leader) == needed
        || needed == TreeIndex.outside && leadersAreOutside(leader)
    else { throw outOfReach(needed, node) }
  }

  /// Whether a member of the outside session is in the outside group for good.
  private func leadersAreOutside(_ node: Int) -> Bool {
    isHelper(node) || index.group[node] == TreeIndex.outside
  }

  private mutating func needOwnGroup(_ task: Int) throws(ScheduleError) {
    let group = index.group[task]
    guard !index.isVisible(group, from: index.namespace[task]), !canBeMovedLater(task, to: group) else {
      return
    }
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

  /// Whether a child can only be made when its namespace is there.
  private func isStranger(_ child: Int, to node: Int) -> Bool {
    nodes[child].namespace != nodes[node].namespace && inits[nodes[child].namespace] != child
  }

  /// A task that is about to leave its session or group cannot wait until another namespace is there: helpers
  /// stay behind there and make its children as siblings of theirs.
  private mutating func letHelpersWait(_ list: WritableKeyPath<Node, [Int]>, of node: Int) {
    struct Key: Hashable {
      var signal: SignalNumber
      var group: Int?
      var isSibling: Bool
    }
    let strangers = nodes[node][keyPath: list].filter { isStranger($0, to: node) }
    guard !strangers.isEmpty else { return }
    nodes[node][keyPath: list] = nodes[node][keyPath: list].filter { !isStranger($0, to: node) }
    var makers: [Key: Int] = [:]
    for child in strangers {
      let first = nodes[child]
      let key = Key(signal: first.exitSignal, group: first.neededGroup, isSibling: first.isSibling)
      let session = first.birthSession ?? first.session
      let maker =
        makers[key]
        ?? addHelper(
          .namespaceEntry, pids: [], namespace: nodes[node].namespace, session: session,
          birthSession: session,
          creator: node)
      if makers.updateValue(maker, forKey: key) == nil {
        nodes[maker].exitSignal = first.exitSignal
        (nodes[maker].isSibling, nodes[maker].firstParent) = (first.isSibling, first.firstParent)
        (nodes[maker].isEarly, nodes[maker].neededGroup) = (first.isEarly, first.neededGroup)
        (nodes[maker].isAdopted, nodes[maker].movesCreator) = (first.isAdopted, first.movesCreator)
        nodes[node][keyPath: list].append(maker)
      }
      for object in Self.sharedObjects {
        let id = first.birthShares[keyPath: object]
        let held = [nodes[node].birthShares[keyPath: object], nodes[node].shares[keyPath: object]]
        if id != nil, held.contains(id) { nodes[maker].birthShares[keyPath: object] = id }
      }
      nodes[maker].shares = nodes[maker].birthShares
      nodes[maker].late.append(child)
      (nodes[child].creator, nodes[child].isSibling, nodes[child].isEarly) = (maker, true, false)
      (nodes[child].isAdopted, nodes[child].movesCreator) = (false, false)
    }
  }

  /// Children that need a group come late, and children in other namespaces last, because the groups and the
  /// namespaces may have to be made first.
  private mutating func putWaitingLast(_ list: WritableKeyPath<Node, [Int]>, of node: Int) {
    let children = nodes[node][keyPath: list]
    func patience(_ child: Int) -> (Int, Int) {
      if isStranger(child, to: node) {
        return (nodes[child].movesCreator ? 4 : 3, nodes[child].namespace)
      }
      return (nodes[child].movesCreator ? 2 : nodes[child].isAdopted ? 1 : 0, 0)
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
