/// Tasks that need no plan: childless ones that end where their parent does, in its session, group and namespace. It makes them when it has come
/// there itself, whatever that took. In most large trees nearly all tasks are such, and a plan takes half a kilobyte for each.
extension ForkSchedule {
  /// The schedule of a tree without them, and then their births; `nil` if it has none, or there is no schedule.
  static func following(_ tree: RecordedTree, options: Options) throws(ScheduleError) -> ForkSchedule? {
    guard let reduced = try Reduced(tree, options: options),
      let index = try? TreeIndex(reduced.tree, options: options, reserved: reduced.reserved),
      var schedule = try? planned(index, options: options)
    else { return nil }
    schedule.rename { TaskID(reduced.places[$0.index]) }
    schedule.append(reduced.followers, of: tree, options: options)
    schedule.waves = waves(of: schedule.steps)
    return schedule
  }

  /// A tree without those who follow their parents.
  private struct Reduced {
    let tree: RecordedTree
    /// Of each of its tasks, the place in the whole tree.
    let places: [Int]
    let followers: [Int]
    /// The numbers that the whole tree uses.
    let reserved: [Set<PID>]

    /// Throws what is wrong with the whole tree. `nil` if nobody follows.
    init?(_ whole: RecordedTree, options: Options) throws(ScheduleError) {
      let index = try TreeIndex(whole, options: options)
      var follows = [Bool](repeating: false, count: whole.tasks.count)
      // All children of a parent or none: they stay in their order.
      for (parent, children) in index.children.enumerated() where !children.isEmpty {
        let all = children.allSatisfy {
          // A task may lead a group that it has left.
          whole.tasks[$0].follows(whole.tasks[parent]) && index.children[$0].isEmpty && index.ledGroup[$0] == nil
        }
        guard all else { continue }
        for child in children { follows[child] = true }
      }
      followers = whole.tasks.indices.filter { follows[$0] }
      if followers.isEmpty { return nil }
      places = whole.tasks.indices.filter { !follows[$0] }
      reserved = index.usedNumbers()
      var renamed = [Int](repeating: 0, count: whole.tasks.count)
      for (place, old) in places.enumerated() { renamed[old] = place }
      var tasks: [RecordedTask] = []
      tasks.reserveCapacity(places.count)
      for (place, old) in places.enumerated() {
        var task = whole.tasks[old]
        task.id = TaskID(place)
        task.parent = task.parent.map { TaskID(renamed[$0.index]) }
        tasks.append(task)
      }
      tree = RecordedTree(tasks: tasks, namespaces: whole.namespaces)
    }
  }

  /// Calls tasks by other places.
  private mutating func rename(_ name: (TaskID) -> TaskID) {
    func renamed(_ actor: Actor) -> Actor { if case .task(let id) = actor { .task(name(id)) } else { actor } }
    for i in steps.indices {
      steps[i].executor = renamed(steps[i].executor)
      switch steps[i].action {
      case .clone(var clone):
        clone.child = renamed(clone.child)
        steps[i].action = .clone(clone)
      case .setpgid(let target, let group): steps[i].action = .setpgid(target: renamed(target), group: group)
      case .wait(let child): steps[i].action = .wait(renamed(child))
      case .makeThread, .setsid, .setns, .unshare, .exec, .setChildSubreaper, .exit: break
      }
    }
    namespaceInits = namespaceInits.mapValues(renamed)
  }

  private mutating func append(_ followers: [Int], of tree: RecordedTree, options: Options) {
    // The last step of each actor, and those by others that put it somewhere.
    var last: [Actor: Int] = [:]
    var others: [Actor: Int] = [:]
    for (place, step) in steps.enumerated() {
      last[step.executor] = place
      if case .setpgid(let target, _) = step.action { others[target] = place }
      if case .clone(let clone) = step.action { others[clone.child] = place }
    }
    steps.reserveCapacity(steps.count + followers.count)
    for follower in followers {
      let task = tree.tasks[follower]
      guard let parent = task.parent else { continue }
      let executor = Actor.task(parent)
      let before = Set([last[executor], others.removeValue(forKey: executor)].compactMap { $0 }).sorted()
      let clone = Clone(
        child: .task(task.id), flags: [], setTID: task.pids.dropFirst(options.outermostNamedLevel).reversed(), exitSignal: task.exitSignal)
      last[executor] = steps.count
      steps.append(Step(executor: executor, action: .clone(clone), dependencies: before))
    }
  }
}

extension RecordedTask {
  /// Whether a `clone` by its parent, as that is in the end, is all that it takes to make it, if it has no children.
  fileprivate func follows(_ parent: RecordedTask) -> Bool {
    session == parent.session && group == parent.group && session != pids && group != pids
      && pidNamespace == parent.pidNamespace && pidNamespaceForChildren == nil && parent.pidNamespaceForChildren == nil
      && threads.isEmpty && !isZombie && !parent.isZombie && exitSignal == .child && !isChildSubreaper && shares == Shares()
  }
}
