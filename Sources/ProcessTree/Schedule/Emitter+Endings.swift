extension Emitter {
  /// Groups whose leader was not there yet, and leaders that end in another group than their own.
  mutating func emitLateGroups() throws(ScheduleError) {
    let count = index.tree.tasks.count
    let tasks = plan.order.filter { $0 < count }
    let ledGroup = index.ledGroup
    for task in tasks where group[task] != index.group[task] && ledGroup[task] == nil { try joinLate(task) }
    for task in tasks where group[task] != index.group[task] {
      guard let led = ledGroup[task] else { continue }
      // The group must not die with the leader's departure: one who stays has to be in it.
      let stayer = index.groups[led].members.first { joined[$0] != nil }.flatMap { joined[$0] }
      let keeper = plan.groupKeepers[task].map { last[$0] }
      try joinLate(task, after: [stayer ?? keeper].compactMap(\.self))
    }
  }

  private mutating func joinLate(_ task: Int, after others: [Int] = []) throws(ScheduleError) {
    let wanted = index.group[task]
    let isVisible = index.isVisible(wanted, from: index.namespace[task])
    guard isVisible || plan.canBeMovedLater(task, to: wanted) else {
      throw .groupOutOfReach(TaskID(task), index.groups[wanted].numbers.first ?? .invisible)
    }
    put(task, into: wanted, by: isVisible ? task : plan.nodes[task].firstParent, after: others)
  }

  /// Helpers exit, and what they made becomes children of a subreaper or of the namespace's init.
  mutating func emitOrphans() {
    var byReaper: [Int: [Int]] = [:]
    var detaching: [Int] = []
    for node in plan.order {
      guard let reaper = plan.nodes[node].reaper else { continue }
      if plan.nodes[node].isDetaching {
        detaching.append(node)
      } else {
        byReaper[reaper, default: []].append(node)
      }
    }
    let passedLater = Set(detaching.flatMap(passes))
    // Outer subreapers come first: no inner one may catch their orphans.
    let places = byReaper.keys.map { plan.nodes[$0].order }.sorted()
    var exits: [Int] = []
    for reaper in places.map({ plan.order[$0] }) {
      let makers = byReaper[reaper] ?? []
      exits += orphan(makers, to: reaper, isLast: !passedLater.contains(reaper))
    }
    for (number, maker) in detaching.reversed().enumerated() {
      let reaper = plan.nodes[maker].reaper ?? index.root
      let isPassed = detaching.dropLast(number + 1).contains { passes($0).contains(reaper) }
      exits += orphan([maker], to: reaper, after: exits, isLast: !isPassed)
    }
  }

  /// The tasks between a helper and the one that is to get its orphans.
  private func passes(_ maker: Int) -> [Int] {
    var passed: [Int] = []
    var at = plan.nodes[maker].firstParent
    while at >= 0, at != plan.nodes[maker].reaper, plan.nodes[at].namespace == plan.nodes[maker].namespace {
      passed.append(at)
      at = plan.nodes[at].firstParent
    }
    return passed
  }

  /// Lets helpers exit while one task is the subreaper that gets their children, and returns the last steps.
  ///
  /// - Parameter isLast: nobody's orphans have to pass the subreaper later, so it may stay one.
  private mutating func orphan(
    _ makers: [Int], to reaper: Int, after others: [Int] = [], isLast: Bool
  ) -> [Int] {
    let isInit = index.isInit(reaper)
    if !isInit, !subreapers.contains(reaper) {
      add(.setChildSubreaper(true), by: reaper, after: others + (passedBy[reaper] ?? []))
      subreapers.insert(reaper)
    }
    let ready = isInit ? others : others + [last[reaper]]
    var exits: [Int] = []
    for maker in makers {
      add(.exit(WaitStatus(exitCode: 0)), by: maker, after: ready)
      exits.append(last[maker])
      for task in passes(maker) { passedBy[task, default: []].append(last[maker]) }
      reap(maker)
    }
    if !isInit, !isLast || !index.tree.tasks[reaper].isChildSubreaper {
      add(.setChildSubreaper(false), by: reaper, after: exits)
      subreapers.remove(reaper)
      exits.append(last[reaper])
    }
    return exits
  }

  /// Helpers are no longer needed once everybody is in their session, group and namespace.
  mutating func emitExits(of isMeant: (Planner.Node) -> Bool) {
    for helper in plan.order.reversed() where plan.isHelper(helper) {
      guard !plan.nodes[helper].isPersistent, isMeant(plan.nodes[helper]) else { continue }
      var others: [Int] = []
      if let led = plan.nodes[helper].carriedGroup {
        others = index.groups[led].members.compactMap { joined[$0] }
      }
      if plan.inits[plan.nodes[helper].namespace] == helper {
        others += entered[plan.nodes[helper].namespace] ?? []
      }
      add(.exit(WaitStatus(exitCode: 0)), by: helper, after: others)
      reap(helper)
    }
  }

  private mutating func reap(_ helper: Int) {
    add(.wait(plan.nodes[helper].actor), by: plan.nodes[helper].firstParent, after: [last[helper]])
  }

  /// A thread lives in its leader's namespace, so that has to be the one for children.
  mutating func emitThreads() {
    for task in plan.order where !plan.isHelper(task) {
      let record = index.tree.tasks[task]
      if !record.threads.isEmpty { bear(in: index.namespace[task], by: task) }
      for (number, thread) in record.threads.enumerated() {
        add(.makeThread(index: number, flags: .threadShares, setTID: named(thread)), by: task)
      }
    }
  }

  mutating func emitNamespacesForChildren() {
    for task in plan.order where !plan.isHelper(task) && !index.isZombie(task) {
      let wanted = index.namespaceForChildren[task]
      if initReady[wanted] != nil || wanted == index.namespace[task] {
        bear(in: wanted, by: task)
        if wanted != index.namespace[task] { entered[wanted, default: []].append(last[task]) }
      } else {
        bear(in: index.namespace[task], by: task)
        add(.unshare(.newPID), by: task)
      }
    }
  }

  mutating func emitSubreapers() {
    for task in plan.order where !plan.isHelper(task) {
      guard index.tree.tasks[task].isChildSubreaper, !subreapers.contains(task) else { continue }
      if index.isZombie(task) { continue }
      add(.setChildSubreaper(true), by: task, after: passedBy[task] ?? [])
    }
  }

  mutating func emitZombies() {
    for task in plan.order where !plan.isHelper(task) {
      guard case .zombie(let status) = index.tree.tasks[task].state else { continue }
      // A namespace dies with its init, so whoever has it for children has entered it before.
      add(.exit(status), by: task, after: index.isInit(task) ? entered[index.namespace[task]] ?? [] : [])
    }
  }
}
