import Linux
import Resources
import SystemPackage

/// Numbers for one kind of object that tasks may share (man 2 kcmp).
final class KernelObjectIDs {
  private let kind: KernelObject
  /// What tasks that share an object have in common as well: others need not be compared.
  private let likeness: (DumpedTask) -> Int
  /// Where there are several.
  private var known: [Int: [(task: DumpedTask, id: UInt32)]] = [:]
  /// Of the tasks, in their order. 1 is the tracer's own.
  private(set) var ids: [UInt32] = []
  /// The first task whose object an earlier one has, too.
  private(set) var firstShared: (task: DumpedTask, other: DumpedTask)?
  private var count: UInt32 = 1

  init(_ kind: KernelObject, likeness: @escaping (DumpedTask) -> Int) {
    self.kind = kind
    self.likeness = likeness
  }

  func assign(_ tasks: [DumpedTask]) throws(Failure) {
    ids.reserveCapacity(tasks.count)
    let all = tasks.map(likeness)
    let sorted = all.sorted()
    for likeness in zip(sorted, sorted.dropFirst()) where likeness.0 == likeness.1 { known[likeness.0] = [] }
    for (task, likeness) in zip(tasks, all) { ids.append(try id(of: task, likeness)) }
  }

  /// Members are kept in kcmp's order, so that a search takes a logarithm of calls.
  private func id(of task: DumpedTask, _ likeness: Int) throws(Failure) -> UInt32 {
    var low = 0
    if let members = known[likeness] {
      var high = members.count
      while low < high {
        let middle = (low + high) / 2
        let order = try about("\(task.description): kcmp") { () throws(Errno) in
          try kcmp(task.pid, members[middle].task.pid, kind)
        }
        if order == 0 {
          if firstShared == nil { firstShared = (task, members[middle].task) }
          return members[middle].id
        }
        if order < 0 { high = middle } else { low = middle + 1 }
      }
    }
    count += 1
    known[likeness]?.insert((task, count), at: low)
    return count
  }
}
