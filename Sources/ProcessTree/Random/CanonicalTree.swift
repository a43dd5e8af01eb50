extension RecordedTree {
  /// The same tree in the one form that all equal trees have, so that `==` compares what the kernel shows.
  ///
  /// Tasks are ordered by their PIDs, shared objects and namespaces are numbered in that order, objects held by
  /// one task only have no number, and the session and the group that the root has from outside are called 0.
  public func canonical(droppingLevels dropped: Int = 0) -> RecordedTree {
    guard let root = tasks.first(where: { $0.parent == nil }) else { return self }
    let leaders = Set(tasks.compactMap(\.pids.first))
    let rootLevels = root.pids.count
    // What is led from around the root's namespace cannot be told apart from the root's own outside session.
    func isOutside(_ list: [PID], root: PID?) -> Bool {
      list[0] == root || list.count { $0 != .invisible } < rootLevels
    }
    let outsideSession = root.session == root.pids ? nil : root.session[0]
    let outsideGroup = root.session == root.pids || leaders.contains(root.group[0]) ? nil : root.group[0]

    let order = tasks.indices.sorted { left, right in
      let (one, other) = (tasks[left].pids.dropFirst(dropped), tasks[right].pids.dropFirst(dropped))
      return one.lexicographicallyPrecedes(other)
    }
    var place = Array(repeating: 0, count: tasks.count)
    for (new, old) in order.enumerated() { place[old] = new }
    var canonical: [RecordedTask] = []
    for (new, old) in order.enumerated() {
      var task = tasks[old]
      task.id = TaskID(new)
      task.parent = task.parent.map { TaskID(place[$0.index]) }
      if isOutside(task.session, root: outsideSession) { task.session = task.session.map { _ in .invisible } }
      if isOutside(task.group, root: outsideGroup) { task.group = task.group.map { _ in .invisible } }
      task.pids.removeFirst(dropped)
      task.session.removeFirst(dropped)
      task.group.removeFirst(dropped)
      task.threads = task.threads.map { Array($0.dropFirst(dropped)) }.sorted {
        $0.lexicographicallyPrecedes($1)
      }
      if task.isZombie { (task.shares, task.isChildSubreaper) = (RecordedTask.Shares(), false) }
      canonical.append(task)
    }
    for object in [\RecordedTask.Shares.files, \.fs, \.sighand, \.mm] { renumber(object, in: &canonical) }
    let namespaces = renumberNamespaces(in: &canonical, dropped: dropped)
    return RecordedTree(tasks: canonical, namespaces: namespaces)
  }

  private func renumber(
    _ object: WritableKeyPath<RecordedTask.Shares, ShareGroupID?>, in tasks: inout [RecordedTask]
  ) {
    var counts: [ShareGroupID: Int] = [:]
    for task in tasks {
      if let id = task.shares[keyPath: object] { counts[id, default: 0] += 1 }
    }
    var names: [ShareGroupID: ShareGroupID] = [:]
    for index in tasks.indices {
      guard let id = tasks[index].shares[keyPath: object] else { continue }
      guard counts[id, default: 0] > 1 else {
        tasks[index].shares[keyPath: object] = nil
        continue
      }
      if names[id] == nil { names[id] = ShareGroupID(UInt32(names.count + 1)) }
      tasks[index].shares[keyPath: object] = names[id]
    }
  }

  private func renumberNamespaces(in tasks: inout [RecordedTask], dropped: Int) -> [RecordedNamespace] {
    let parents = Dictionary(namespaces.map { ($0.id, $0.parent) }) { first, _ in first }
    let levels = Dictionary(namespaces.map { ($0.id, $0.level) }) { first, _ in first }
    let dead = Set(namespaces.filter(\.isDead).map(\.id))
    var names: [PIDNamespaceID: PIDNamespaceID] = [:]
    var listed: [RecordedNamespace] = []
    func name(_ id: PIDNamespaceID) -> PIDNamespaceID {
      if let known = names[id] { return known }
      let level = levels[id] ?? 0
      var parent: PIDNamespaceID?
      if level > dropped, let outer = parents[id] ?? nil { parent = name(outer) }
      let new = PIDNamespaceID(UInt32(listed.count + 1))
      names[id] = new
      listed.append(
        RecordedNamespace(id: new, parent: parent, level: level - dropped, isDead: dead.contains(id)))
      return new
    }
    for index in tasks.indices {
      tasks[index].pidNamespace = name(tasks[index].pidNamespace)
      if tasks[index].isZombie { tasks[index].pidNamespaceForChildren = nil }
      tasks[index].pidNamespaceForChildren = tasks[index].pidNamespaceForChildren.map(name)
    }
    return listed
  }
}
