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
  /// What was seen of its pages while these were read.
  var scanAhead: PageScan?
  /// Their flags are still to be compared: see ``Foresight``.
  var isForeseen = false
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
      try reader.status(in: task.folder, "status")
    }
    namespaces = try about("task \(task.pid): reading its namespaces") { () throws(Errno) -> [UInt64] in
      if task.isZombie {
        let own = try NamespaceInodes(folder: task.folder).inode(.pid)
        return NamespaceInodes.Kind.allCases.map { $0.family == "pid" ? own : 0 }
      }
      return try NamespaceInodes(folder: task.folder, pidfd: try pidfdOpen(task.pid), keeping: reader.namespaces).all()
    }
    if task.isZombie { return }
    if let foreseen = try about(
      "task \(task.pid): reading maps",
      { () throws(Errno) in
        try task.foresight?.mappings(of: task, status, reader.buffer)
      })
    {
      isForeseen = true
      mappings = foreseen
    } else {
      (mappings, scanAhead) = try Self.mappings(of: task, reader)
    }
    timers = try about("task \(task.pid): reading its timers") { () throws(Errno) in
      let file = try task.folder.open("timers")
      return PosixTimers.list(try reader.buffer.readAll(file.rawValue, longestRecord: 512))
    }
  }

  /// Its mappings, and what was seen of its pages while they were read.
  static func mappings(of task: Place, _ reader: Reader) throws(Failure) -> ([Mapping], PageScan?) {
    try about("task \(task.pid)") { () throws(Failure) in
      let companion = reader.companion.flatMap { $0.isFree ? $0 : nil }
      var scan: PageScan?
      var mayScan = task.pagesAhead != nil
      let many = ManyMappings(of: task.pid, in: task.folder, reader.buffer, with: companion) { known in
        // What fails here does so again when it is needed, and is told then.
        if mayScan, scan == nil { scan = try? PageScan(owning: task.folder.open("pagemap")) }
        if mayScan {
          mayScan = (try? scan?.lookAhead()) ?? false
          return true
        }
        guard let scan, let pagesAhead = task.pagesAhead else { return false }
        return pagesAhead.step(scan, known, of: task.pid)
      }
      return (reader.hold(try many.read()), scan)
    }
  }

  /// Looks at the threads but the first: all that have in common with that one what they can are like it.
  mutating func look(at tids: [Int32], of task: Place, _ known: KernelThreads, _ reader: Reader) throws(Failure) {
    threads.reserveCapacity(tids.count)
    let isOutermost = status.nsPid == [task.pid]
    for tid in tids {
      if isOutermost, let noted = known.thread(tid, like: task.pid) {
        threads.append(ThreadGlance(at: tid, noted, like: self))
      } else {
        threads.append(try ThreadGlance(at: tid, of: task, comparedWith: task.pid, reader))
      }
    }
  }

  /// Where to look.
  struct Place {
    var pid: Int32
    var folder: ProcFolder
    var isZombie: Bool
    /// How many threads it had, if that is known.
    var threadCount = 1
    var foresight: Foresight?
    /// Where its pages go if they, too, may be looked at already.
    var pagesAhead: PagesAhead?
  }

  /// What a thread of the tool needs to read.
  final class Reader {
    let buffer = ReadBuffer()
    let namespaces = OpenNamespaces()
    /// Who helps with what is long, if it has nothing else to do. It has none itself.
    let companion: Companion?
    private var lastMappings: [Mapping] = []
    private var lastStatus: ProcStatus?

    init(helpedBy companion: Companion? = nil) { self.companion = companion }

    func status(in folder: ProcFolder, _ name: String) throws(Errno) -> ProcStatus {
      let file = try folder.open(name)
      let status = ProcStatus(try buffer.readAll(file.rawValue, longestRecord: 512))
      if let lastStatus { status.hold(like: lastStatus) }
      lastStatus = status
      return status
    }

    /// Lets go of what relatives to come could have had in common.
    func forget() {
      lastMappings = []
      lastStatus = nil
    }

    /// Relatives often have the same mappings, which are then held once.
    func hold(_ mappings: [Mapping]) -> [Mapping] {
      if mappings != lastMappings { lastMappings = mappings }
      return lastMappings
    }
  }
}

/// The same of one thread.
struct ThreadGlance {
  var tid: Int32
  var status: ProcStatus
  /// In the order of ``kinds``.
  var namespaces: [UInt64]
  /// What it does not share with another thread that had stopped, though all that can be dumped do (man 2 unshare); `nil`: it is yet to be
  /// compared with the process's first thread, which is the last to stop.
  var unshared: [KernelObject]?

  /// What the kernel has noted of one that is like its process's first thread.
  var noted: KernelThread?

  /// What a thread can have of its own; the others are shared with more (man 2 setns).
  static let kinds: [NamespaceInodes.Kind] = [.uts, .ipc, .net, .cgroup]

  init(at tid: Int32, of task: Glance.Place, comparedWith other: Int32, _ reader: Glance.Reader) throws(Failure) {
    self.tid = tid
    status = try about("task \(task.pid): thread \(tid): reading its state") { () throws(Errno) in
      try reader.status(in: task.folder, "task/\(tid)/status")
    }
    namespaces = try about("task \(task.pid): thread \(tid): reading its namespaces") { () throws(Errno) in
      // Linux before 6.9 has no pidfds of threads.
      let inodes = NamespaceInodes(
        folder: task.folder, prefix: "task/\(tid)/ns/", pidfd: try? pidfdOpen(tid, ofThread: true), keeping: reader.namespaces)
      var list: [UInt64] = []
      for kind in Self.kinds { list.append(try inodes.inode(kind)) }
      return list
    }
    if tid != other { unshared = try Self.unshared(tid, other, task.pid) }
  }

  /// A thread that has nothing of its own.
  init(at tid: Int32, _ noted: KernelThread, like process: Glance) {
    self.tid = tid
    self.noted = noted
    status = ProcStatus(of: tid, like: process.status)
    namespaces = Self.kinds.map { process.namespace($0) }
    unshared = []
  }

  /// What two threads of a process that have stopped do not share.
  static func unshared(_ tid: Int32, _ other: Int32, _ pid: Int32) throws(Failure) -> [KernelObject] {
    try about("task \(pid): kcmp of threads \(tid) and \(other)") { () throws(Errno) in
      var unshared: [KernelObject] = []
      for kind in [KernelObject.files, .fs] where try kcmp(other, tid, kind) != 0 { unshared.append(kind) }
      return unshared
    }
  }
}

/// The glances at all tasks of a tree, in the order in which these were frozen, made by the tracer and its companion; by the companion
/// also while the tracer freezes others. Nothing that they look at changes in a process that has stopped.
final class Glances {
  private enum Part {
    case task(Glance)
    case threads([ThreadGlance])

    var weight: Int { if case .task(let glance) = self { glance.mappings.count } else { 0 } }
  }

  /// How many threads make a part of their own.
  private static let threadsPerPart = 32
  /// For fewer tasks and threads the companion takes longer to begin than it spares.
  private static let fewest = 16

  /// What is to be looked at. There may be very many.
  private enum Order {
    case task(DumpedTask)
    /// And, by what the kernel has noted of them, its threads but the first.
    indirect case crowd(DumpedTask, tids: [Int32], KernelThreads)
    /// Some of a process whose folder this is.
    indirect case threads(ArraySlice<Int32>, of: Glance.Place)
  }

  private let companion: Companion
  private let pagesAhead: PagesAhead?
  private let parts: Lookahead<Order, Part>
  private var count = 0
  private var processes = 0
  /// Of the process that is being frozen, those that make no part yet.
  private var threads: [Int32] = []
  private var looking = Looking.undecided

  /// How the threads of a process are looked at.
  private enum Looking {
    case undecided
    case partByPart
    /// All at once, when the last has stopped: by an iterator, unless there turns out to be none.
    case atOnce
  }

  /// With `pagesAhead` the memory of a task is dumped as it is at the time of the glance.
  init(_ companion: Companion, _ foresight: Foresight?, _ pagesAhead: PagesAhead?) {
    self.companion = companion
    self.pagesAhead = pagesAhead
    parts = Lookahead(companion, weigh: \.weight) { (order, reader) throws(Failure) in
      func place(of task: DumpedTask) -> Glance.Place {
        Glance.Place(
          pid: task.pid, folder: task.directory.folder, isZombie: task.isZombie, threadCount: task.traced.count, foresight: foresight,
          pagesAhead: pagesAhead)
      }
      switch order {
      case .task(let task): return .task(try Glance(at: place(of: task), reader))
      case .crowd(let task, let tids, let known):
        let place = place(of: task)
        var glance = try Glance(at: place, reader)
        try glance.look(at: tids, of: place, known, reader)
        return .task(glance)
      case .threads(let tids, let place):
        var list: [ThreadGlance] = []
        for tid in tids { list.append(try ThreadGlance(at: tid, of: place, comparedWith: tids[tids.startIndex], reader)) }
        return .threads(list)
      }
    }
  }

  /// A thread that has stopped; its process is still to come. The first thread is looked at with that.
  func append(thread tid: Int32, of task: Glance.Place) {
    if tid == task.pid { return }
    note()
    threads.append(tid)
    if looking == .undecided {
      looking = task.threadCount >= KernelThreads.many && companion.hire() ? .atOnce : .partByPart
      if looking == .atOnce, companion.hasTime { companion.start { _ = KernelThreads.canBeAsked } }
    }
    if looking == .atOnce, companion.hasTime, !KernelThreads.canBeAsked { looking = .partByPart }
    if looking == .partByPart, threads.count >= Self.threadsPerPart { endParts(of: task) }
  }

  /// A process all of whose threads have stopped.
  func append(_ task: DumpedTask) {
    note()
    processes += 1
    let known = looking == .atOnce ? KernelThreads(of: task.pid) : nil
    looking = .undecided
    var order = Order.task(task)
    if let known {
      order = .crowd(task, tids: threads, known)
      threads = []
    } else {
      endParts(of: Glance.Place(pid: task.pid, folder: task.directory.folder, isZombie: task.isZombie))
    }
    // Where there are many stacks there are many mappings.
    parts.append(order, isLong: task.traced.count > 1)
  }

  private func note() {
    count += 1
    if count == Self.fewest { companion.hire() }
  }

  private func endParts(of task: Glance.Place) {
    for first in stride(from: 0, to: threads.count, by: Self.threadsPerPart) {
      let tids = threads[first..<min(first + Self.threadsPerPart, threads.count)]
      parts.append(.threads(tids, of: task))
    }
    threads = []
  }

  /// All have been appended.
  func complete() {
    pagesAhead?.isAllowed = processes == 1
    parts.complete()
  }

  /// What was not taken yet is not wanted.
  func end() { parts.end() }

  /// The next task's.
  func next() throws(Failure) -> Glance? {
    var threads: [ThreadGlance] = []
    while let part = try parts.next() {
      switch part {
      case .threads(let more): threads += more
      case .task(var glance):
        if glance.threads.isEmpty { glance.threads = threads }
        return glance
      }
    }
    return nil
  }
}
