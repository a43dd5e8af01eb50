extension Planner {
  /// Whose orphans a helper makes: those of one session that fall to one task, in one group where that has to
  /// be inherited.
  struct OrphanMakerKey: Hashable {
    var reaper: Int
    var session: Int
    var group: Int?
  }

  /// Finds the creator of each task.
  mutating func settleCreators() throws(ScheduleError) {
    for task in index.preorder where task != index.root {
      // The creator of a task may depend on where its session's leader is born, and so on upwards.
      var pending: [Int] = []
      var next: Int? = task
      while let at = next, nodes[at].creator == Self.undecided, pending.count <= nodes.count {
        pending.append(at)
        next = leaderThatMakes(at)
      }
      guard pending.count <= nodes.count else {
        throw .creatorsNeedEachOther(TaskID(task))
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
      let isEarly = nodes[task].birthSession.map { $0 != nodes[parent].session } ?? false
      if !isEarly { nodes[task].birthSession = nodes[parent].session }
      place(task, creator: parent, isSibling: false, isEarly: isEarly)
      return
    }
    let signal = nodes[task].exitSignal
    if nodes[leader].firstParent == parent, inits[nodes[leader].namespace] != leader,
      index.isNested(nodes[task].namespace, in: nodes[leader].namespace), canMakeSibling(leader, with: signal)
    {
      place(task, creator: leader, isSibling: true, isEarly: false)
      return
    }
    guard signal == .child else { throw .orphanWithExitSignal(TaskID(task), signal) }
    guard index.isNested(index.namespace[parent], in: nodes[leader].namespace) else {
      throw .sessionOutOfReach(
        TaskID(task), index.sessions[nodes[leader].session].numbers.first ?? .invisible)
    }
    place(task, creator: orphanMaker(for: task, leader: leader), isSibling: false, isEarly: false)
  }

  /// Gives a task its creator. An init's creator lives in the namespace around it; where it would not, a
  /// helper there makes the init a sibling of its own.
  private mutating func place(_ task: Int, creator: Int, isSibling: Bool, isEarly: Bool) {
    let parent = isSibling ? nodes[creator].firstParent : creator
    let outer = index.namespaces[nodes[task].namespace].parent
    if inits[nodes[task].namespace] == task, nodes[creator].namespace != outer {
      let session = nodes[task].birthSession ?? nodes[creator].session
      let entry = addHelper(
        .namespaceEntry, pids: [], namespace: outer, session: session, birthSession: session, creator: creator
      )
      nodes[entry].exitSignal = nodes[task].exitSignal
      append(entry, creator: creator, parent: parent, isSibling: isSibling, isEarly: isEarly)
      append(task, creator: entry, parent: parent, isSibling: true, isEarly: false)
    } else {
      append(task, creator: creator, parent: parent, isSibling: isSibling, isEarly: isEarly)
    }
  }

  private mutating func append(_ node: Int, creator: Int, parent: Int, isSibling: Bool, isEarly: Bool) {
    (nodes[node].creator, nodes[node].firstParent) = (creator, parent)
    (nodes[node].isSibling, nodes[node].isEarly) = (isSibling, isEarly)
    if isEarly { nodes[creator].early.append(node) } else { nodes[creator].late.append(node) }
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

  /// The helper below a session's leader whose exit hands its children to a subreaper above that leader, or to
  /// the init of the namespace that the helper has entered.
  mutating func orphanMaker(for task: Int, leader: Int) -> Int {
    let reaper = index.parent[task]
    let session = nodes[task].birthSession ?? nodes[leader].session
    let isInherited = !index.isVisible(index.group[task], from: index.namespace[task])
    let key = OrphanMakerKey(
      reaper: reaper, session: session,
      group: isInherited && !index.leadsSession(task) ? index.group[task] : nil)
    if let known = orphanMakers[key] { return known }
    let maker = addHelper(
      .parentOfOrphans, pids: [], namespace: index.namespace[reaper], session: session,
      birthSession: session, creator: leader)
    nodes[maker].reaper = reaper
    nodes[leader].late.append(maker)
    orphanMakers[key] = maker
    return maker
  }
}
