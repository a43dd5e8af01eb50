extension Planner {
  /// A task shares an object with its creator or not at all, so whoever stands between two tasks that share
  /// one has to hold it too.
  mutating func carryShares() throws(ScheduleError) {
    try carry(\.files)
    try carry(\.fs)
    try carry(\.sighand)
    try carry(\.mm)
  }

  private mutating func carry(
    _ object: WritableKeyPath<RecordedTask.Shares, ShareGroupID?>
  ) throws(ScheduleError) {
    var holders: [ShareGroupID: [Int]] = [:]
    for node in order {
      if let id = nodes[node].shares[keyPath: object] { holders[id, default: []].append(node) }
    }
    for (id, members) in holders where members.count > 1 {
      // In preorder the first holder is the top one, if one of them is.
      let top = members[0]
      for member in members.dropFirst() {
        var at = nodes[member].creator
        while at >= 0, nodes[at].shares[keyPath: object] != id {
          guard at >= index.tree.tasks.count, nodes[at].shares[keyPath: object] == nil,
            nodes[at].order > nodes[top].order
          else { throw .sharingOutOfReach(TaskID(member)) }
          nodes[at].shares[keyPath: object] = id
          at = nodes[at].creator
        }
      }
    }
  }
}
