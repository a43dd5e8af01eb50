extension Emitter {
  /// Groups whose leader was not there yet, and leaders that end in another group than their own.
  mutating func emitLateGroups() {
    let count = index.tree.tasks.count
    let tasks = plan.order.filter { $0 < count }
    let ledGroup = index.ledGroup
    for task in tasks where joined[task] == nil && ledGroup[task] == nil { join(task) }
    for task in tasks where joined[task] == nil {
      guard let led = ledGroup[task] else { continue }
      // The group must not die with the leader's departure: one who stays has to be in it.
      let stayer = index.groups[led].members.first { joined[$0] != nil }.flatMap { joined[$0] }
      let keeper = plan.groupKeepers[task].map { last[$0] }
      join(task, after: [stayer ?? keeper].compactMap(\.self))
    }
  }

  /// Helpers exit, and what they made becomes children of a subreaper or of the namespace's init.
  mutating func emitOrphans() {
    var byReaper: [Int: [Int]] = [:]
    for node in plan.order {
      if let reaper = plan.nodes[node].reaper { byReaper[reaper, default: []].append(node) }
    }
    // Outer subreapers come first: no inner one may catch their orphans.
    let places = byReaper.keys.map { plan.nodes[$0].order }.sorted()
    let reapers = places.map { plan.order[$0] }
    for reaper in reapers {
      let group = byReaper[reaper] ?? []
      let isInit = index.namespaces[plan.nodes[reaper].namespace].initTask == reaper
      if !isInit {
        add(.setChildSubreaper(true), by: reaper, after: passedBy[reaper] ?? [])
      }
      let ready = last[reaper]
      var exits: [Int] = []
      for maker in group {
        add(.exit(WaitStatus(exitCode: 0)), by: maker, after: [ready])
        exits.append(last[maker])
        reap(maker)
        var at = plan.nodes[maker].firstParent
        while at != reaper, at >= 0 {
          passedBy[at, default: []].append(last[maker])
          at = plan.nodes[at].firstParent
        }
      }
      if isInit { continue }
      if index.tree.tasks[reaper].isChildSubreaper {
        subreapers.insert(reaper)
      } else {
        add(.setChildSubreaper(false), by: reaper, after: exits)
      }
    }
  }

  /// The helpers that carried an ID are no longer needed once everybody is in their session or group.
  mutating func emitHelperExits() {
    for helper in plan.order.reversed() where helper >= index.tree.tasks.count {
      guard plan.nodes[helper].reaper == nil else { continue }
      var others: [Int] = []
      if let led = plan.nodes[helper].carriedGroup {
        others = index.groups[led].members.compactMap { joined[$0] }
      }
      add(.exit(WaitStatus(exitCode: 0)), by: helper, after: others)
      reap(helper)
    }
  }

  private mutating func reap(_ helper: Int) {
    add(.wait(plan.nodes[helper].actor), by: plan.nodes[helper].firstParent, after: [last[helper]])
  }

  mutating func emitLastSteps() {
    for task in plan.order where task < index.tree.tasks.count {
      let record = index.tree.tasks[task]
      if record.isChildSubreaper, !subreapers.contains(task) {
        add(.setChildSubreaper(true), by: task, after: passedBy[task] ?? [])
      }
      for (number, thread) in record.threads.enumerated() {
        add(.makeThread(index: number, flags: .threadShares, setTID: named(thread)), by: task)
      }
    }
    for task in plan.order where task < index.tree.tasks.count {
      if case .zombie(let status) = index.tree.tasks[task].state { add(.exit(status), by: task) }
    }
  }
}
