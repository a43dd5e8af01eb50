import Checkpoint
import Linux
import Resources
import SystemPackage

/// What a frozen task's folder in `/proc` says of it. Whoever may read it may do so, so that it is the companion's work
/// (`Linux/Companion`) while the tracer looks at the tasks before.
struct Glance {
  var status: ProcStatus
  /// What its namespaces are called; empty where there is none, see ``links(in:)``.
  var namespaces: [[UInt8]] = []
  var mappings: [Mapping] = []
  var timers: [PosixTimerEntry] = []
  /// Of the threads but the first, in order.
  var threads: [ProcStatus] = []
  /// A thread that lives in another namespace than the process, and in which.
  var stray: (tid: Int32, namespace: String)?

  /// Those in `ns/` that are looked at.
  static let kinds =
    ["pid", "pid_for_children", "net", "user", "cgroup", "time", "time_for_children"] + namespaceKinds.map { $0.name }

  /// `name`: one of ``kinds``
  func namespace(_ name: String) -> [UInt8] {
    guard let index = Self.kinds.firstIndex(of: name), index < namespaces.count else { return [] }
    return namespaces[index]
  }

  /// The names of the namespaces of a process, as the links in a folder have them.
  ///
  /// One is empty where the kernel lacks the kind, or where a namespace for children has no init yet.
  static func links(in folder: Int32, _ names: String = "ns/", count: Int = kinds.count) throws(Errno) -> [[UInt8]] {
    var links: [[UInt8]] = []
    for kind in kinds.prefix(count) {
      do throws(Errno) {
        links.append(try readlink(at: folder, names + kind))
      } catch {
        guard error == .noSuchFileOrDirectory else { throw error }
        links.append([])
      }
    }
    return links
  }

  init(at task: Place, _ buffer: ReadBuffer) throws(Failure) {
    status = try about("task \(task.pid): reading its state") { () throws(Errno) in
      let file = try Descriptor.open(at: task.folder, "status")
      return ProcStatus(try buffer.readAll(file.rawValue, longestRecord: 512))
    }
    namespaces = try about("task \(task.pid): reading its namespaces") { () throws(Errno) in
      try Self.links(in: task.folder, count: task.isZombie ? 1 : Self.kinds.count)
    }
    if task.isZombie { return }
    mappings = try about("task \(task.pid): reading smaps") { () throws(Errno) in
      let smaps = try Descriptor.open(at: task.folder, "smaps")
      return try Mapping.readAll(smaps.rawValue, buffer)
    }
    timers = try about("task \(task.pid): reading its timers") { () throws(Errno) in
      let file = try Descriptor.open(at: task.folder, "timers")
      return PosixTimers.list(try buffer.readAll(file.rawValue, longestRecord: 512))
    }
    try lookAtThreads(of: task, buffer)
  }

  private mutating func lookAtThreads(of task: Place, _ buffer: ReadBuffer) throws(Failure) {
    for tid in task.threads {
      threads.append(
        try about("task \(task.pid): thread \(tid): reading its state") { () throws(Errno) in
          let file = try Descriptor.open(at: task.folder, "task/\(tid)/status")
          return ProcStatus(try buffer.readAll(file.rawValue, longestRecord: 512))
        })
      for kind in NamespaceTable.threadNamespaces where stray == nil {
        let link = try about("task \(task.pid): thread \(tid): reading its namespaces") { () throws(Errno) in
          try readlink(at: task.folder, "task/\(tid)/ns/\(kind)")
        }
        if link != namespace(kind) { stray = (tid, kind) }
      }
    }
  }

  /// Where to look.
  struct Place {
    var pid: Int32
    var folder: Int32
    var isZombie: Bool
    /// Threads but the first.
    var threads: [Int32]
  }
}

/// The glances at all tasks of a tree, in order. The tracer and its companion make them in equal parts.
final class Glances {
  private static let batch = 32
  private let companion: Companion
  private var places: ArraySlice<Glance.Place>
  private let own = Reader()
  private let theirs = Reader()
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
    let first = places.prefix(Self.batch)
    let second = places.dropFirst(first.count).prefix(Self.batch)
    places = places.dropFirst(first.count + second.count)
    let theirs = theirs
    companion.start { () throws(Failure) in try theirs.read(second) }
    do throws(Failure) {
      try own.read(first)
    } catch {
      do throws(Failure) { try companion.wait() } catch {}  // one failure is enough
      throw error
    }
    try companion.wait()
    ready = (own.glances + theirs.glances).reversed()
  }

  /// One thread's part.
  private final class Reader {
    private let buffer = ReadBuffer()
    private(set) var glances: [Glance] = []

    func read(_ places: ArraySlice<Glance.Place>) throws(Failure) {
      glances = []
      for place in places { glances.append(try Glance(at: place, buffer)) }
    }
  }
}
