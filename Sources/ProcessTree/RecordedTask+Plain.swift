extension RecordedTree {
  /// Whether it is made by nothing but forks of parents and, right after its birth, each task's own `setsid` or `setpgid`, as most trees
  /// are. Such a tree has a fork schedule for certain, which needs not be computed to know that.
  public var isPlain: Bool {
    namespaces.count == 1
      && tasks.allSatisfy { task in task.isPlain(under: task.parent.map { self[$0] }) }
  }
}

extension RecordedTask {
  /// Whether it adds nothing but a fork to a tree in one namespace: see ``RecordedTree/isPlain``.
  public func isPlain(under parent: RecordedTask?) -> Bool {
    guard pidNamespaceForChildren == nil, shares == Shares(), exitSignal == .child else { return false }
    if session == pids { return group == pids }
    // A group that is not its own was its parent's before; so its leader is an ancestor, alive, and of the same session.
    guard let parent, session == parent.session else { return false }
    return group == pids || group == parent.group
  }
}
