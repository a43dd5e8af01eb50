extension TreeIndex {
  mutating func indexSessions(
    _ taskByPID: [PID: Int], options: ForkSchedule.Options
  ) throws(ScheduleError) {
    sessions = [Session(numbers: [], namespace: 0, leader: nil)]
    var places: [PID: Int] = [.invisible: Self.outside]
    let rootTask = tree.tasks[root]
    if rootTask.session != rootTask.pids { places[rootTask.session[0]] = Self.outside }
    session = Array(repeating: Self.outside, count: tree.tasks.count)
    for task in preorder {
      let record = tree.tasks[task]
      let key = record.session[0]
      let seen = try visiblePart(of: record.session, task: task)
      let isInside = seen.count > namespaces[namespace[root]].level
      let place = places[key] ?? (isInside ? sessions.count : Self.outside)
      if place == sessions.count {
        places[key] = place
        sessions.append(Session(numbers: seen, namespace: 0, leader: taskByPID[key]))
        sessions[place].namespace = ancestor(of: namespace[task], level: seen.count - 1)
      } else if place != Self.outside {
        let known = sessions[place]
        let (numbers, home) = try merge(seen, of: task, known.numbers, known.namespace)
        (sessions[place].numbers, sessions[place].namespace) = (numbers, home)
      }
      if place == Self.outside, !options.shellJob { throw .sessionLedFromOutside(TaskID(task), key) }
      session[task] = place
      let start = min(sessions[place].range?.lowerBound ?? .max, enter[task])
      sessions[place].range = start..<max(sessions[place].range?.upperBound ?? 0, enter[task] + 1)
    }
    for entry in sessions {
      guard let leader = entry.leader else { continue }
      let record = tree.tasks[leader]
      guard record.session == record.pids else { throw .leaderLeftItsSession(TaskID(leader)) }
      guard record.group == record.pids else { throw .sessionLeaderInOtherGroup(TaskID(leader)) }
    }
  }

  mutating func indexGroups(
    _ taskByPID: [PID: Int], options: ForkSchedule.Options
  ) throws(ScheduleError) {
    groups = [Group(numbers: [], namespace: 0, session: Self.outside, leader: nil)]
    ledGroup = Array(repeating: nil, count: tree.tasks.count)
    group = Array(repeating: Self.outside, count: tree.tasks.count)
    var places: [PID: Int] = [.invisible: Self.outside]
    let rootKey = tree.tasks[root].group[0]
    // A group that the root is in and nobody leads was led from outside, unless somebody saw its leader inside.
    let levels = tree.tasks[root].pids.count
    let isSeenInside = tree.tasks.contains {
      $0.group[0] == rootKey && $0.group.count { $0 != .invisible } > (isRootInit ? levels - 1 : levels)
    }
    if session[root] == Self.outside, taskByPID[rootKey] == nil, !isSeenInside {
      places[rootKey] = Self.outside
    }
    var sessionByKey: [PID: Int] = [:]
    for (index, entry) in sessions.enumerated() where index != Self.outside {
      sessionByKey[entry.numbers[0]] = index
    }
    for task in preorder {
      let record = tree.tasks[task]
      let key = record.group[0]
      let seen = try visiblePart(of: record.group, task: task)
      let isInside = seen.count > namespaces[namespace[root]].level
      let place = places[key] ?? (isInside ? groups.count : Self.outside)
      if place == groups.count {
        places[key] = place
        let leader = taskByPID[key]
        groups.append(Group(numbers: seen, namespace: 0, session: session[task], leader: leader))
        groups[place].namespace = ancestor(of: namespace[task], level: seen.count - 1)
        if let leader { ledGroup[leader] = place }
      } else if place != Self.outside {
        let known = groups[place]
        let (numbers, home) = try merge(seen, of: task, known.numbers, known.namespace)
        (groups[place].numbers, groups[place].namespace) = (numbers, home)
      }
      guard groups[place].session == session[task] else {
        throw .groupSpansSessions(key, groups[place].members.first.map(TaskID.init), TaskID(task))
      }
      guard sessionByKey[key] ?? session[task] == session[task] else {
        throw .groupSpansSessions(key, nil, TaskID(task))
      }
      if place == Self.outside, !options.shellJob { throw .groupLedFromOutside(TaskID(task), key) }
      group[task] = place
      groups[place].members.append(task)
    }
    for (place, entry) in groups.enumerated() {
      guard let leader = entry.leader else { continue }
      guard session[leader] == entry.session else {
        throw .groupSpansSessions(entry.numbers[0], TaskID(leader), TaskID(entry.members[0]))
      }
      _ = try merge(tree.tasks[leader].pids, of: leader, entry.numbers, entry.namespace)
      (groups[place].numbers, groups[place].namespace) = (tree.tasks[leader].pids, namespace[leader])
    }
  }

  /// The levels at which an ID is visible: those of the namespaces around its leader, so none after a gap.
  private func visiblePart(of list: [PID], task: Int) throws(ScheduleError) -> [PID] {
    let seen = Array(list.prefix { $0 != .invisible })
    guard list.dropFirst(seen.count).allSatisfy({ $0 == .invisible }) else {
      throw .visibleOnlyInside(TaskID(task), list)
    }
    return seen
  }

  /// Two tasks that see one ID must see the same numbers wherever their namespaces are the same.
  private func merge(
    _ seen: [PID], of task: Int, _ numbers: [PID], _ home: Int
  ) throws(ScheduleError) -> ([PID], Int) {
    let mine = ancestor(of: namespace[task], level: seen.count - 1)
    let common = min(seen.count, numbers.count)
    guard seen.prefix(common) == numbers.prefix(common), isNested(mine, in: home) || isNested(home, in: mine)
    else { throw .inconsistentViews(seen[0], TaskID(task)) }
    return seen.count > numbers.count ? (seen, mine) : (numbers, home)
  }

  /// A task sees an ID at every level that its namespace has in common with the ID's.
  func checkViews() throws(ScheduleError) {
    for (task, record) in tree.tasks.enumerated() {
      let views = [
        (record.session, session[task], sessions[session[task]].namespace),
        (record.group, group[task], groups[group[task]].namespace),
      ]
      for (list, place, home) in views where place != Self.outside {
        var (one, other) = (namespace[task], home)
        while one != other {
          if namespaces[one].level >= namespaces[other].level {
            one = namespaces[one].parent
          } else {
            other = namespaces[other].parent
          }
        }
        guard list.count(where: { $0 != .invisible }) == namespaces[one].level + 1 else {
          throw .inconsistentViews(list[0], TaskID(task))
        }
      }
    }
  }

  private func ancestor(of namespace: Int, level: Int) -> Int {
    var at = namespace
    while namespaces[at].level > max(level, 0) { at = namespaces[at].parent }
    return at
  }
}
