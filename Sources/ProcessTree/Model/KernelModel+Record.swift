extension KernelModel {
  /// The tree below a process as a checkpoint would record it.
  ///
  /// - Parameter outermost: the outermost namespace that the recorder knows; the root lives in it or below.
  public func record(root: Process, outermost: Namespace) -> RecordedTree {
    var order = [root.index]
    var place: [Int: Int] = [root.index: 0]
    var next = 0
    while next < order.count {
      for child in processes[order[next]].children {
        place[child] = order.count
        order.append(child)
      }
      next += 1
    }
    let firstLevel = namespaces[outermost.index].level
    var tasks: [RecordedTask] = []
    for (index, process) in order.enumerated() {
      tasks.append(
        recordTask(
          process, id: TaskID(index),
          parent: index == 0 ? nil : place[processes[process].parent].map(TaskID.init),
          firstLevel: firstLevel))
    }
    return RecordedTree(tasks: tasks, namespaces: recordNamespaces(tasks, firstLevel: firstLevel))
  }

  private func recordTask(_ process: Int, id: TaskID, parent: TaskID?, firstLevel: Int) -> RecordedTask {
    let entry = processes[process]
    let home = activeNamespace(process)
    var chain: [Int] = []
    var at = home
    while at >= 0, namespaces[at].level >= firstLevel {
      chain.append(at)
      at = namespaces[at].parent
    }
    chain.reverse()
    func view(_ pid: Int) -> [PID] { chain.map { PID(number(of: pid, in: $0)) } }
    var task = RecordedTask(
      id: id, pids: view(entry.pid), parent: parent, group: view(entry.group), session: view(entry.session),
      threads: entry.threads.map(view), exitSignal: entry.exitSignal,
      pidNamespace: PIDNamespaceID(UInt32(home)), isChildSubreaper: entry.isChildSubreaper)
    if case .zombie(let status) = entry.state {
      task.state = .zombie(status)
      task.isChildSubreaper = false
    } else {
      if entry.namespaceForChildren != home {
        task.pidNamespaceForChildren = PIDNamespaceID(UInt32(entry.namespaceForChildren))
      }
      task.shares = RecordedTask.Shares(
        files: ShareGroupID(UInt32(entry.files)), fs: ShareGroupID(UInt32(entry.fs)),
        sighand: ShareGroupID(UInt32(entry.sighand)), mm: ShareGroupID(UInt32(entry.mm)))
    }
    return task
  }

  private func recordNamespaces(_ tasks: [RecordedTask], firstLevel: Int) -> [RecordedNamespace] {
    var seen: Set<Int> = []
    for task in tasks {
      for id in [task.pidNamespace, task.pidNamespaceForChildren ?? task.pidNamespace] {
        var at = Int(id.rawValue)
        while at >= 0, namespaces[at].level >= firstLevel, seen.insert(at).inserted {
          at = namespaces[at].parent
        }
      }
    }
    return seen.sorted().map { index in
      let entry = namespaces[index]
      return RecordedNamespace(
        id: PIDNamespaceID(UInt32(index)),
        parent: entry.level == firstLevel ? nil : PIDNamespaceID(UInt32(entry.parent)),
        level: entry.level - firstLevel,
        isDead: !entry.isAdding && !tasks.contains { $0.pidNamespace.rawValue == UInt32(index) })
    }
  }
}
