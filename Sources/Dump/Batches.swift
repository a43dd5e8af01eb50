import Checkpoint
import Glibc
import Linux
import Resources
import SystemPackage
import Tracee

/// Collects and writes some tasks after the other, so that what is known of all of them never has to be held at once. While the tracer
/// is busy with some, the companion writes what is known of those before, and looks from outside at those behind.
final class Batches {
  /// How many tasks are collected and written at a time; twice as many, if these are all.
  static let size = 64
  /// What is known of so many mappings does not have to be held at once either; a task that has more is a batch of its own.
  private static let mostMappings = 1 << 14

  private let dump: DumpContext
  private let images: ImageSet
  private let scan: MemoryScan
  private let snapshot: Snapshot?
  private let companion: Companion
  private var collector: Collector
  private let all: [DumpedTask]
  private let batches: [[DumpedTask]]
  /// The pages of batches that have been recorded: whose job records, has this. With a snapshot nobody does: most tasks' pages are
  /// those of their copies.
  private var found: [Int: [MemoryScan.Found]] = [:]
  /// Those of the next batch.
  private var next: [MemoryScan.Found] = []

  /// Tasks that are being written: their memory by themselves, all else by the companion.
  private struct Writing {
    var tasks: [DumpedTask] = []
    /// Those without a copy.
    var left: [DumpedTask] = []
  }

  private var writing = Writing()
  /// A task that has been written goes back to its stop: there are more than the dead man's switch can watch, or so many that of each
  /// as little as possible is to be held.
  private let givesBack: Bool
  static let most = DeadManSwitch.capacity / 2
  /// For mappings that are read again; of one thread at a time.
  private let reader = Glance.Reader()

  init(
    _ tasks: [DumpedTask], _ images: ImageSet, _ scan: MemoryScan, _ snapshot: Snapshot?, _ collector: Collector,
    _ companion: Companion
  ) {
    dump = collector.dump
    self.images = images
    self.scan = scan
    self.snapshot = snapshot
    self.companion = companion
    self.collector = collector
    all = tasks
    givesBack = tasks.reduce(0) { $0 + max($1.traced.count, 1) } > Self.most
    batches = Self.batches(of: tasks)
  }

  private static func batches(of tasks: [DumpedTask]) -> [[DumpedTask]] {
    let most = tasks.count <= 2 * size ? 2 * size : size
    var batches: [[DumpedTask]] = []
    var (batch, mappings): ([DumpedTask], Int) = ([], 0)
    for task in tasks {
      if batch.count == most || !batch.isEmpty && mappings + task.mappingCount > mostMappings {
        batches.append(batch)
        (batch, mappings) = ([], 0)
      }
      batch.append(task)
      mappings += task.mappingCount
    }
    return batch.isEmpty ? batches : batches + [batch]
  }

  /// Everything but the inventory. With `--snapshot` the memory of most tasks is yet to be written when this returns.
  func write() throws(Failure) {
    noteRelations()
    try images.assignIDs(companion) { () throws(Failure) in try look(at: 0) }
    let tables = Dictionary(grouping: all.filter { !$0.isZombie }, by: \.filesID)
    collector.sharedTables = Set(tables.filter { $0.value.count > 1 }.keys)
    snapshot?.deadManSwitch = collector.deadManSwitch
    companion.start { () throws(Failure) in
      try self.scan(0)
      try self.record(1)
    }
    for index in batches.indices { try write(index) }
    try companion.wait()
    forgetWritten()
    let begin = nanoseconds()
    try SharedMemoryTable.recordSegments(dump)
    noteTime(since: begin)
    dump.statistics.memdumpTime = dump.statistics.memwriteTime
    try Interruption.check()
    try images.writeTree(seccomp: collector.seccompImage)
  }

  /// What tasks are to each other.
  private func noteRelations() {
    if let root = all.first, root.rootLevel > 0 {
      for task in all {
        dump.imageNumbers[task.pid] = task.imagePID
        for (thread, tid) in zip(task.traced, task.imageTIDs) { dump.imageNumbers[thread.tid] = tid }
      }
    }
    dump.processes = all.filter { !$0.isZombie }.map(\.pid)
    let parents = Set(all.map(\.parent))
    for task in all { task.hasChildren = parents.contains(task.pid) }
  }

  /// What is seen of a batch from outside. The companion is two batches ahead of the tracer with it.
  private func record(_ index: Int) throws(Failure) {
    guard index < batches.count else { return }
    try look(at: index)
    try scan(index)
  }

  private func look(at index: Int) throws(Failure) {
    for task in batches[index] where !task.isZombie {
      task.begin()
      if task.losesMappings {
        (task.mappings, _) = try Glance.mappings(of: Glance.Place(pid: task.pid, folder: task.directory.folder, isZombie: false), reader)
      }
      if task.stat.hasForgottenMemory {
        try about("\(task.description): reading stat") { () throws(Errno) in
          guard let again = ProcStat(try task.directory.read("stat", reader.buffer)) else { throw .noSuchProcess }
          task.stat.rememberMemory(again)
        }
      }
      try AddressSpace.record(task, dump)
      try FileSystemContext.record(task, dump)
      try DescriptorTable.record(task, dump, companion)
    }
  }

  private func scan(_ index: Int) throws(Failure) {
    if snapshot == nil { found[index] = try scan.find(batches[index]) }
  }

  private func write(_ index: Int) throws(Failure) {
    let tasks = batches[index]
    try collector.collect(tasks, companion) { [images] (task, thread, buffer) throws(Failure) in
      try images.writeOne(thread, of: task, &buffer)
    }
    try Interruption.check()
    if index == 0 {
      try companion.wait()
      next = try takeFound(0)
    }
    let begin = nanoseconds()
    let left = try snapshot?.take(tasks) ?? tasks
    let memory = try snapshot == nil ? next : scan.find(left)
    let transfers = try collector.transfers(memory)
    try MemoryTransfer.begin(transfers)
    do throws(Failure) {
      try companion.wait()
      let written = forgetWritten()
      next = try takeFound(index + 1)
      writing = Writing(tasks: tasks, left: left)
      let part = images.part(tasks, memory)
      companion.start { () throws(Failure) in
        try part.write()
        try self.record(index + 2)
      }
      if givesBack { for task in written { task.leave() } }
      try MemoryTransfer.finish(transfers)
      // The last have nobody behind them.
      if index == batches.count - 1 { try part.write() }
    } catch {
      MemoryTransfer.end(transfers)
      throw error
    }
    noteTime(since: begin)
  }

  /// The memory of a batch, which was looked at: not to have looked would pass for having none.
  private func takeFound(_ index: Int) throws(Failure) -> [MemoryScan.Found] {
    guard snapshot == nil, index < batches.count else { return [] }
    guard let memory = found.removeValue(forKey: index) else { throw Failure("the memory of batch \(index) was not looked at") }
    return memory
  }

  @discardableResult private func forgetWritten() -> [DumpedTask] {
    for task in writing.tasks { task.forgetWritten() }
    for task in writing.left { scan.forget(task) }
    defer { writing = Writing() }
    return writing.tasks
  }

  private func noteTime(since begin: UInt64) {
    dump.statistics.memwriteTime += UInt32(clamping: (nanoseconds() - begin) / 1000)
  }
}
