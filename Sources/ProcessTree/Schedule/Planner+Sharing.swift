/// A task shares an object with its creator from birth or not at all, so whoever stands between two tasks that
/// share one has to hold it as well: a helper for good, a recorded task until it has made them.
extension Planner {
  typealias SharedObject = WritableKeyPath<RecordedTask.Shares, ShareGroupID?>

  static var sharedObjects: [SharedObject] { [\.files, \.fs, \.sighand, \.mm] }

  mutating func carryShares() throws(ScheduleError) {
    for object in Self.sharedObjects {
      var holders: [ShareGroupID: [Int]] = [:]
      for node in order {
        if let id = nodes[node].shares[keyPath: object] { holders[id, default: []].append(node) }
      }
      let shared = holders.filter { $0.value.count > 1 }
      for (id, members) in shared.sorted(by: { $0.value[0] < $1.value[0] }) {
        try connect(members, object, id)
      }
    }
  }

  private mutating func connect(
    _ members: [Int], _ object: SharedObject, _ id: ShareGroupID
  ) throws(ScheduleError) {
    func isMember(_ node: Int) -> Bool { node >= 0 && nodes[node].shares[keyPath: object] == id }
    let apart = members.filter { !isMember(nodes[$0].creator) }
    if apart.count > 1 {
      let top = commonCreator(of: apart)
      var below: [Int] = []
      for member in apart where member != top {
        var at = member
        while nodes[at].creator != top, !holdsFirst(nodes[at].creator, object, id) {
          at = nodes[at].creator
          try hold(at, object, id, for: member)
        }
        if nodes[at].creator == top, !below.contains(at) { below.append(at) }
      }
      if !holdsFirst(top, object, id), !isMember(top) {
        try connectBelow(top, below, object, id)
      }
    }
    let first = members.count { nodes[$0].birthShares[keyPath: object] != id }
    guard first == 0 || first == 1 && apart.count == 1 || first == 1 && isMember(commonCreator(of: apart))
    else {
      throw .sharingOutOfReach(TaskID(members[0]))
    }
  }

  private func holdsFirst(_ node: Int, _ object: SharedObject, _ id: ShareGroupID) -> Bool {
    nodes[node].birthShares[keyPath: object] == id
  }

  /// Lets a task that is no member hold the object from its birth.
  private mutating func hold(
    _ node: Int, _ object: SharedObject, _ id: ShareGroupID, for member: Int
  ) throws(ScheduleError) {
    guard nodes[node].birthShares[keyPath: object] == nodes[node].shares[keyPath: object],
      !isHelper(node) || nodes[node].shares[keyPath: object] == nil
    else { throw .sharingOutOfReach(TaskID(min(member, index.tree.tasks.count - 1))) }
    nodes[node].birthShares[keyPath: object] = id
    if isHelper(node) { nodes[node].shares[keyPath: object] = id }
  }

  /// Connects tasks whose creator does not share what they share: a helper beside them makes them.
  private mutating func connectBelow(
    _ top: Int, _ children: [Int], _ object: SharedObject, _ id: ShareGroupID
  ) throws(ScheduleError) {
    let first = nodes[children[0]]
    let isEarly = first.isEarly
    let isAlike = children.allSatisfy {
      nodes[$0].isSibling == first.isSibling && nodes[$0].exitSignal == first.exitSignal
        && nodes[$0].isEarly == isEarly && !nodes[top].groupLeaders.contains($0)
    }
    guard isAlike, !isHelper(top), !index.isZombie(top), let session = first.birthSession else {
      try hold(top, object, id, for: children[0])
      return
    }
    let maker = addHelper(
      .sharing, pids: [], namespace: nodes[top].namespace, session: session, birthSession: session,
      creator: top)
    nodes[maker].exitSignal = first.exitSignal
    nodes[maker].isSibling = first.isSibling
    nodes[maker].isEarly = isEarly
    nodes[maker].firstParent = first.firstParent
    for other in Self.sharedObjects where other != object {
      // What they share with their creator they go on sharing with it.
      let theirs = nodes[top].birthShares[keyPath: other]
      if theirs != nil, children.contains(where: { nodes[$0].birthShares[keyPath: other] == theirs }) {
        nodes[maker].shares[keyPath: other] = theirs
      }
    }
    nodes[maker].shares[keyPath: object] = id
    nodes[maker].birthShares = nodes[maker].shares
    nodes[maker].late = children
    for child in children {
      (nodes[child].creator, nodes[child].isSibling, nodes[child].isEarly) = (maker, true, false)
    }
    if isEarly {
      nodes[top].early.removeAll(where: children.contains)
      nodes[top].early.append(maker)
    } else {
      nodes[top].late.removeAll(where: children.contains)
      nodes[top].late.append(maker)
    }
  }

  /// The innermost node of the plan that has all of these below it, or is one of them.
  private func commonCreator(of members: [Int]) -> Int {
    var path: [Int] = []
    var place: [Int: Int] = [:]
    var at = members[0]
    while at >= 0 {
      place[at] = path.count
      path.append(at)
      at = nodes[at].creator
    }
    var top = 0
    for member in members.dropFirst() {
      at = member
      while place[at] == nil { at = nodes[at].creator }
      top = max(top, place[at] ?? 0)
    }
    return path[top]
  }

  func isHelper(_ node: Int) -> Bool { node >= index.tree.tasks.count }

  /// Puts the children that need what a task holds at first before those that need what it holds in the end.
  mutating func orderForUnsharing() throws(ScheduleError) {
    var counts = Array(repeating: [ShareGroupID: Int](), count: Self.sharedObjects.count)
    for (place, object) in Self.sharedObjects.enumerated() {
      for node in nodes { node.shares[keyPath: object].map { counts[place][$0, default: 0] += 1 } }
    }
    for node in nodes.indices where !isHelper(node) {
      guard nodes[node].birthShares != nodes[node].shares || nodes[node].firstSignal != nil else { continue }
      if index.isZombie(node), nodes[node].firstSignal == nil {
        nodes[node].shares = nodes[node].birthShares
      } else {
        try orderForUnsharing(node, counts)
      }
    }
  }

  private mutating func orderForUnsharing(
    _ node: Int, _ counts: [[ShareGroupID: Int]]
  ) throws(ScheduleError) {
    let (first, final) = (nodes[node].birthShares, nodes[node].shares)
    let changed = Self.sharedObjects.filter { first[keyPath: $0] != final[keyPath: $0] }
    let firstSignal = nodes[node].firstSignal
    func needs(_ held: RecordedTask.Shares, _ signal: SignalNumber?, _ child: Int) -> Bool {
      if nodes[child].isSibling, firstSignal != nil, nodes[child].exitSignal == signal { return true }
      return changed.contains {
        let id = nodes[child].birthShares[keyPath: $0]
        return id != nil && id == held[keyPath: $0]
      }
    }
    func sorted(_ children: [Int]) -> [Int] {
      children.filter { needs(first, firstSignal, $0) } + children.filter { !needs(first, firstSignal, $0) }
    }
    nodes[node].early = sorted(nodes[node].early)
    nodes[node].inheriting = sorted(nodes[node].inheriting)
    nodes[node].late = sorted(nodes[node].late)
    let children = nodes[node].early + nodes[node].inheriting + nodes[node].late
    guard let last = children.lastIndex(where: { needs(first, firstSignal, $0) }),
      !children[...last].contains(where: { needs(final, .child, $0) })
    else { throw .sharingOutOfReach(TaskID(node)) }
    let isReplaced = changed.contains(\.mm) || changed.contains(\.sighand) || firstSignal != nil
    if isReplaced {
      // exec gives everything but fs afresh, and SIGCHLD as the exit signal.
      for (place, object) in Self.sharedObjects.enumerated() where object != \.fs && !changed.contains(object) {
        guard final[keyPath: object].flatMap({ counts[place][$0] }) ?? 1 == 1 else {
          throw .sharingOutOfReach(TaskID(node))
        }
      }
      guard nodes[node].exitSignal == .child else { throw .sharingOutOfReach(TaskID(node)) }
    }
    nodes[node].unshareAfter = children[last]
    nodes[node].isReplaced = isReplaced
  }
}
