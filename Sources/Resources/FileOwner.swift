import Checkpoint

extension FileEntry {
  /// Changes who gets the description's signals from one view of PIDs to another; negative numbers, in old images, are groups.
  mutating func mapOwner(_ view: (Int32) -> Int32) {
    func map<Entry>(_ entry: WritableKeyPath<FileEntry, Entry?>, _ owner: WritableKeyPath<Entry, FownEntry>) {
      guard var changed = self[keyPath: entry], changed[keyPath: owner].pid != 0 else { return }
      let pid = Int32(bitPattern: changed[keyPath: owner].pid)
      changed[keyPath: owner].pid = UInt32(bitPattern: pid < 0 ? -view(-pid) : view(pid))
      self[keyPath: entry] = changed
    }
    map(\.reg, \.fown)
    map(\.efd, \.fown)
    map(\.epfd, \.fown)
    map(\.sgfd, \.fown)
    map(\.tfd, \.fown)
    map(\.pipe, \.fown)
    map(\.tty, \.fown)
    map(\.memfd, \.fown)
  }
}
