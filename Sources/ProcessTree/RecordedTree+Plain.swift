extension RecordedTree {
  /// Whether it is made by nothing but forks of parents and, right after its birth, each task's own `setsid` or `setpgid`, as most trees
  /// are. Such a tree has a fork schedule for certain, which needs not be computed to know that.
  public var isPlain: Bool {
    namespaces.count == 1
      && tasks.allSatisfy { task in
        guard task.pidNamespaceForChildren == nil, task.shares == RecordedTask.Shares(), task.exitSignal == .child else { return false }
        if task.session == task.pids { return task.group == task.pids }
        // A group that is not its own was its parent's before; so its leader is an ancestor, alive, and of the same session.
        guard let parent = task.parent.map({ self[$0] }), task.session == parent.session else { return false }
        return task.group == task.pids || task.group == parent.group
      }
  }
}
