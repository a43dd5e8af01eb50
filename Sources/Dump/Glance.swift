import Checkpoint
import Linux
import Resources
import SystemPackage

/// What a frozen task's folder in `/proc` says of it. Whoever may read it may do so, so that it is the companion's work
/// (`Linux/Companion`) while the tracer looks at the tasks before.
struct Glance {
  var status: ProcStatus
  /// Which namespaces it lives in, in the order of the kinds; 0 where there is none, see ``NamespaceInodes``.
  var namespaces: [UInt64] = []
  var mappings: [Mapping] = []
  var timers: [PosixTimerEntry] = []
  /// Of the threads but the first, in order.
  var threads: [ThreadGlance] = []

  /// A thread that lives in another namespace than the process, and in which.
  var stray: (tid: Int32, kind: NamespaceInodes.Kind)? {
    for thread in threads {
      for (kind, inode) in zip(ThreadGlance.kinds, thread.namespaces) where inode != namespace(kind) { return (thread.tid, kind) }
    }
    return nil
  }

  func namespace(_ kind: NamespaceInodes.Kind) -> UInt64 {
    NamespaceInodes.Kind.allCases.firstIndex(of: kind).map { namespaces[$0] } ?? 0
  }

  init(at task: Place, _ reader: Reader) throws(Failure) {
    status = try about("task \(task.pid): reading its state") { () throws(Errno) in
      let file = try Descriptor.open(at: task.folder, "status")
      return ProcStatus(try reader.buffer.readAll(file.rawValue, longestRecord: 512))
    }
    namespaces = try about("task \(task.pid): reading its namespaces") { () throws(Errno) -> [UInt64] in
      if task.isZombie {
        let own = try NamespaceInodes(folder: task.folder).inode(.pid)
        return NamespaceInodes.Kind.allCases.map { $0.family == "pid" ? own : 0 }
      }
      return try NamespaceInodes(folder: task.folder, pidfd: try pidfdOpen(task.pid), keeping: reader.namespaces).all()
    }
    if task.isZombie { return }
    mappings = try about("task \(task.pid): reading smaps") { () throws(Errno) in
      let smaps = try Descriptor.open(at: task.folder, "smaps")
      return try Mapping.readAll(smaps.rawValue, reader.buffer)
    }
    timers = try about("task \(task.pid): reading its timers") { () throws(Errno) in
      let file = try Descriptor.open(at: task.folder, "timers")
      return PosixTimers.list(try reader.buffer.readAll(file.rawValue, longestRecord: 512))
    }
  }

  /// Where to look.
  struct Place {
    var pid: Int32
    var folder: Int32
    var isZombie: Bool
  }

  /// What a thread of the tool needs to read.
  final class Reader {
    let buffer = ReadBuffer()
    let namespaces = OpenNamespaces()
  }
}

/// The same of one thread.
struct ThreadGlance {
  var tid: Int32
  var status: ProcStatus
  /// In the order of ``kinds``.
  var namespaces: [UInt64]

  /// What a thread can have of its own; the others are shared with more (man 2 setns).
  static let kinds: [NamespaceInodes.Kind] = [.uts, .ipc, .net, .cgroup]

  init(at tid: Int32, of task: Glance.Place, _ reader: Glance.Reader) throws(Failure) {
    self.tid = tid
    status = try about("task \(task.pid): thread \(tid): reading its state") { () throws(Errno) in
      let file = try Descriptor.open(at: task.folder, "task/\(tid)/status")
      return ProcStatus(try reader.buffer.readAll(file.rawValue, longestRecord: 512))
    }
    namespaces = try about("task \(task.pid): thread \(tid): reading its namespaces") { () throws(Errno) in
      // Linux before 6.9 has no pidfds of threads.
      let inodes = NamespaceInodes(
        folder: task.folder, prefix: "task/\(tid)/ns/", pidfd: try? pidfdOpen(tid, ofThread: true), keeping: reader.namespaces)
      var list: [UInt64] = []
      for kind in Self.kinds { list.append(try inodes.inode(kind)) }
      return list
    }
  }
}

/// The glances at all tasks of a tree, in order, made ahead by the tracer and its companion.
final class Glances {
  private enum Part {
    case task(Glance)
    case threads([ThreadGlance])
  }

  /// How many threads make a part of their own.
  private static let threadsPerPart = 32
  private let parts: Lookahead<Part>
  /// How many parts with threads follow that of each task; the next task last.
  private var counts: [Int]

  init(at tasks: [FrozenTask], _ companion: Companion) {
    var wanted: [(place: Glance.Place, threads: ArraySlice<Int32>?)] = []
    var counts: [Int] = []
    for task in tasks {
      let place = Glance.Place(pid: task.pid, folder: task.directory?.rawValue ?? -1, isZombie: task.isZombie)
      let threads = task.threads.dropFirst().map(\.tid)
      wanted.append((place, nil))
      for first in stride(from: 0, to: threads.count, by: Self.threadsPerPart) {
        wanted.append((place, threads[first..<min(first + Self.threadsPerPart, threads.count)]))
      }
      counts.append((threads.count + Self.threadsPerPart - 1) / Self.threadsPerPart)
    }
    self.counts = counts.reversed()
    parts = Lookahead(count: wanted.count, companion) { (index, reader) throws(Failure) in
      let (place, threads) = wanted[index]
      guard let threads else { return .task(try Glance(at: place, reader)) }
      var list: [ThreadGlance] = []
      for tid in threads { list.append(try ThreadGlance(at: tid, of: place, reader)) }
      return .threads(list)
    }
  }

  /// The next task's.
  func next() throws(Failure) -> Glance? {
    guard let count = counts.popLast(), case .task(var glance) = try parts.next() else { return nil }
    for _ in 0..<count {
      if case .threads(let threads) = try parts.next() { glance.threads += threads }
    }
    return glance
  }
}
