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
  var threads: [ProcStatus] = []
  /// A thread that lives in another namespace than the process, and in which.
  var stray: (tid: Int32, kind: NamespaceInodes.Kind)?

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
    try look(at: task.threads[...], of: task, reader)
  }

  /// Looks at threads of the process, behind those that were looked at before.
  mutating func look(at tids: ArraySlice<Int32>, of task: Place, _ reader: Reader) throws(Failure) {
    for tid in tids {
      threads.append(
        try about("task \(task.pid): thread \(tid): reading its state") { () throws(Errno) in
          let file = try Descriptor.open(at: task.folder, "task/\(tid)/status")
          return ProcStatus(try reader.buffer.readAll(file.rawValue, longestRecord: 512))
        })
      if stray != nil { continue }
      stray = try about("task \(task.pid): thread \(tid): reading its namespaces") { () throws(Errno) in
        // Linux before 6.9 has no pidfds of threads.
        let inodes = NamespaceInodes(
          folder: task.folder, prefix: "task/\(tid)/ns/", pidfd: try? pidfdOpen(tid, ofThread: true),
          keeping: reader.namespaces)
        for kind in Self.threadKinds where try inodes.inode(kind) != namespace(kind) { return (tid, kind) }
        return nil
      }
    }
  }

  /// What a thread can have of its own; the others are shared with more (man 2 setns).
  private static let threadKinds: [NamespaceInodes.Kind] = [.uts, .ipc, .net, .cgroup]

  /// Where to look.
  struct Place {
    var pid: Int32
    var folder: Int32
    var isZombie: Bool
    /// Threads but the first.
    var threads: [Int32]
  }

  /// What a thread needs to read.
  final class Reader {
    let buffer = ReadBuffer()
    let namespaces = OpenNamespaces()

    func glances(at places: some Sequence<Place>) throws(Failure) -> [Glance] {
      var glances: [Glance] = []
      for place in places { glances.append(try Glance(at: place, self)) }
      return glances
    }
  }
}

/// The glances at all tasks of a tree, in order. The tracer and its companion make them in equal parts.
final class Glances {
  private static let batch = 32
  private static let manyThreads = 64
  private let companion: Companion
  private var places: ArraySlice<Glance.Place>
  private let own = Glance.Reader()
  private let theirs = Glance.Reader()
  /// Those that were made, the next one last.
  private var ready: [Glance] = []

  init(at tasks: [FrozenTask], _ companion: Companion) {
    places =
      tasks.map {
        Glance.Place(
          pid: $0.pid, folder: $0.directory?.rawValue ?? -1, isZombie: $0.isZombie, threads: $0.threads.dropFirst().map(\.tid))
      }[...]
    self.companion = companion
  }

  /// The next task's.
  func next() throws(Failure) -> Glance? {
    if ready.isEmpty { try look() }
    return ready.popLast()
  }

  private func look() throws(Failure) {
    if let place = places.first, place.threads.count > Self.manyThreads { return try lookAtThreads(of: place) }
    let first = places.prefix { $0.threads.count <= Self.manyThreads }.prefix(Self.batch)
    let second = places.dropFirst(first.count).prefix { $0.threads.count <= Self.manyThreads }.prefix(Self.batch)
    places = places.dropFirst(first.count + second.count)
    let (own, theirs) = (own, theirs)
    var halves: ([Glance], [Glance]) = ([], [])
    try companion.share(
      { () throws(Failure) in halves.0 = try own.glances(at: first) },
      { () throws(Failure) in halves.1 = try theirs.glances(at: second) })
    ready = (halves.0 + halves.1).reversed()
  }

  /// A process with so many threads that these are divided.
  private func lookAtThreads(of place: Glance.Place) throws(Failure) {
    places = places.dropFirst()
    var process = place
    process.threads = []
    guard var glance = try own.glances(at: [process]).first else { return }
    let half = place.threads.count / 2
    var rest = glance
    let theirs = theirs
    try companion.share(
      { () throws(Failure) in try glance.look(at: place.threads[..<half], of: place, self.own) },
      { () throws(Failure) in try rest.look(at: place.threads[half...], of: place, theirs) })
    glance.threads += rest.threads
    glance.stray = glance.stray ?? rest.stray
    ready = [glance]
  }
}
