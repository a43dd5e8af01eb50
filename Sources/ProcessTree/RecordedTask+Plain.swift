extension RecordedTask {
  /// Whether it adds nothing but a fork to a tree of one namespace, and its own `setsid` or `setpgid` right after its birth. A tree of nothing
  /// but such tasks, as most are, has a fork schedule for certain, which needs not be computed to know that.
  public func isPlain(under parent: RecordedTask?) -> Bool {
    guard pidNamespaceForChildren == nil, shares == Shares(), exitSignal == .child else { return false }
    if session == pids { return group == pids }
    // A group that is not its own was its parent's before; so its leader is an ancestor, alive, and of the same session.
    guard let parent, session == parent.session else { return false }
    return group == pids || group == parent.group
  }
}
