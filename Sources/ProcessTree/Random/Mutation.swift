extension RecordedTree {
  /// The tree with one thing changed at random, as a damaged or doctored image would have it. Most results are
  /// impossible, some are not.
  public func mutated(using random: inout SplitMix64) -> RecordedTree {
    var tree = self
    let place = Int.random(in: 0..<tasks.count, using: &random)
    let other = tasks[Int.random(in: 0..<tasks.count, using: &random)]
    // Lists keep their length, so that it is the meaning that is wrong.
    func fit(_ list: [PID]) -> [PID] {
      let length = tasks[place].pids.count
      return Array((list + Array(repeating: .invisible, count: length)).prefix(length))
    }
    switch Int.random(in: 0..<10, using: &random) {
    case 0: tree.tasks[place].session = fit(other.session)
    case 1: tree.tasks[place].session = fit(other.pids)
    case 2: tree.tasks[place].group = fit(other.group)
    case 3: tree.tasks[place].group = fit(other.pids)
    case 4: tree.tasks[place].parent = other.id
    case 5: tree.tasks[place].pids = fit(other.pids)
    case 6: tree.tasks[place].state = .zombie(WaitStatus(exitCode: 0))
    case 7: tree.tasks[place].exitSignal = SignalNumber(10)
    case 8: tree.tasks[place].shares = other.shares
    default: tree.tasks[place].pidNamespace = other.pidNamespace
    }
    return tree
  }
}
