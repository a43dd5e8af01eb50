import CLinux
import Checkpoint
import Glibc
import Linux
import Resources
import SystemPackage
import Tracee

/// A live tree becomes a checkpoint: freeze, look, collect, write, release.
public enum Dump {
  /// Dumps the tree under `options.pid` into the folder `images`. When this throws, the tree runs on as it was, and the
  /// folder holds no checkpoint.
  public static func run(_ options: DumpOptions, images: String) throws(Failure) -> (
    DumpStatsEntry, warnings: [String]
  ) {
    try Preconditions.check(options)
    let isNew = access(images, F_OK) != 0
    let foresight = options.snapshot ? Foresight(root: options.pid) : nil
    do throws(Failure) {
      do throws(Failure) {
        return try dump(options, foresight, images: images)
      } catch {
        guard let foresight, foresight.wasWrong else { throw error }
        return try dump(options, nil, images: images)
      }
    } catch {
      // A refusal leaves nothing behind; a folder with something in it stays.
      if isNew { rmdir(images) }
      throw error.advised("The tree runs on; the folder holds no checkpoint.").namingMissingCapabilities()
    }
  }

  private static func dump(_ options: DumpOptions, _ foresight: Foresight?, images: String) throws(Failure) -> (
    DumpStatsEntry, warnings: [String]
  ) {
    let directory = try openFolder(images)
    let dump = try DumpContext(options: options, directory: directory)
    let deadManSwitch = try about("preparing the dead man's switch") { () throws(Errno) in try DeadManSwitch() }
    let begin = nanoseconds()
    if dump.directory.isOpenToOthers {
      dump.warnings.append("others may write in \(images), and so put images of theirs there: chmod go-w it before you restore from it")
    }

    let companion = Companion()
    let glances = Glances(companion, foresight)
    var freezer = Freezer(glances)
    try freezer.freeze(root: options.pid, timeout: max(options.timeout, 1))
    Ptrace.takeDead(of: freezer.tasks.flatMap { $0.threads.map(\.tid) })
    let frozen = nanoseconds()
    dump.statistics.freezingTime = UInt32(clamping: (frozen - begin) / 1000)
    func noteFrozenTime() { dump.statistics.frozenTime = UInt32(clamping: (nanoseconds() - frozen) / 1000) }

    let survey: Survey
    do throws(Failure) {
      var looking = try Survey()
      try looking.look(at: freezer.tasks, glances, options, companion)
      survey = looking
      try refuse(survey.objections)
      dump.namespaces = survey.namespaces
      try Interruption.check()
    } catch {
      glances.end()
      freezer.release()
      throw error
    }

    let snapshot = options.snapshot ? Snapshot(dump, foresight) : nil
    do throws(Failure) {
      let images = ImageSet(dump, survey.tasks, survey.pidNamespaces)
      var collector = Collector(dump, deadManSwitch)
      try write(survey, images, snapshot, &collector, companion)
      if let snapshot {
        letGo(survey.tasks, &freezer)
        noteFrozenTime()
        try snapshot.write(images, &collector)
      }
      try images.finish()
    } catch {
      companion.settle()
      letGo(survey.tasks, &freezer)
      snapshot?.end()
      dump.links.remove()
      throw error
    }
    if !options.snapshot {
      try release(survey.tasks, &freezer, options)
      noteFrozenTime()
    }
    writeStatistics(dump)
    deadManSwitch.retire()
    leaveBehind((dump, survey, freezer.tasks, deadManSwitch))
    return (dump.statistics, dump.warnings)
  }

  /// Has something last for as long as the process, which ends with the dump: what it knows of a thousand tasks, and its view into
  /// each, would take a tenth of the time to give back piece by piece.
  private static func leaveBehind(_ known: Any) { _ = Unmanaged.passRetained(Remains(known)) }

  private final class Remains {
    let known: Any
    init(_ known: Any) { self.known = known }
  }

  private static func openFolder(_ path: String) throws(Failure) -> ImageDirectory {
    do {
      // The folder of an older checkpoint is not written over: half of each would look like a whole.
      if access(path + "/inventory.img", F_OK) == 0 {
        throw Failure(
          "\(path) holds a checkpoint already", advice: "Remove it, or choose another folder with --images.",
          errno: .fileExists)
      }
      return try asFailure { () throws(ImageError) in try ImageDirectory(creating: FilePath(path)) }
    }
  }

  private static func refuse(_ objections: [String]) throws(Failure) {
    if objections.isEmpty { return }
    let shown =
      objections.count == 1
      ? objections[0] : "\(objections.count) objects:\n  " + objections.joined(separator: "\n  ")
    throw Failure(
      "cannot be dumped: \(shown)",
      advice: "Nothing was changed; the tree runs on. Close what is named, or dump without it.")
  }

  /// Collects and writes some tasks after the other, so that what is known of all of them never has to be held at once. While the tracer
  /// is busy with some, the companion writes what is known of those before, and looks at those behind.
  ///
  /// With `--snapshot` the memory of most is yet to be written when this returns.
  private static func write(
    _ survey: Survey, _ images: ImageSet, _ snapshot: Snapshot?, _ collector: inout Collector, _ companion: Companion
  ) throws(Failure) {
    let tasks = survey.tasks
    let dump = collector.dump
    if let root = tasks.first, root.rootLevel > 0 {
      for task in tasks {
        dump.imageNumbers[task.pid] = task.imagePID
        for thread in task.threads { dump.imageNumbers[thread.traced.tid] = task.imageTID(of: thread) }
      }
    }
    dump.processes = tasks.filter { !$0.isZombie }.map(\.pid)
    let parents = Set(tasks.map(\.parent))
    for task in tasks { task.hasChildren = parents.contains(task.pid) }
    let batches = stride(from: 0, to: tasks.count, by: batchSize).map { Array(tasks[$0..<min($0 + batchSize, tasks.count)]) }
    // The companion is two batches ahead with what is seen from outside.
    try images.assignIDs(companion) { () throws(Failure) in
      for batch in batches.prefix(2) { try record(batch, dump) }
    }
    let tables = Dictionary(grouping: tasks.filter { !$0.isZombie }, by: \.ids.filesId)
    collector.sharedTables = Set(tables.filter { $0.value.count > 1 }.keys)
    snapshot?.deadManSwitch = collector.deadManSwitch
    /// Whose images are being written by the companion.
    var before: (tasks: [DumpedTask], left: [DumpedTask]) = ([], [])
    for (i, batch) in batches.enumerated() {
      try collector.collect(batch, companion)
      try Interruption.check()
      let begin = nanoseconds()
      let left = try snapshot?.take(batch) ?? batch
      let memory = try collector.scanMemory(left, byPID: images.byPID)
      let transfers = try collector.transfers(memory)
      try MemoryTransfer.begin(transfers)
      do throws(Failure) {
        try companion.wait()
        forget(before)
        before = (batch, left)
        images.prepare(batch)
        companion.start { () throws(Failure) in
          try images.write(batch)
          try images.write(memory)
          if i + 2 < batches.count { try record(batches[i + 2], dump) }
        }
        try MemoryTransfer.finish(transfers)
        try images.help()
      } catch {
        MemoryTransfer.end(transfers)
        throw error
      }
      dump.statistics.memwriteTime += UInt32(clamping: (nanoseconds() - begin) / 1000)
    }
    try companion.wait()
    forget(before)
    func forget(_ written: (tasks: [DumpedTask], left: [DumpedTask])) {
      for task in written.tasks { task.forgetWritten() }
      for task in written.left { collector.forget(task) }
    }
    let begin = nanoseconds()
    try SharedMemoryTable.recordSegments(dump)
    dump.statistics.memwriteTime += UInt32(clamping: (nanoseconds() - begin) / 1000)
    dump.statistics.memdumpTime = dump.statistics.memwriteTime
    try Interruption.check()
    try images.writeTree(seccomp: collector.seccompImage)
  }

  /// The tasks run on, as they were found; or have been stopped before.
  private static func letGo(_ tasks: [DumpedTask], _ freezer: inout Freezer, stopped: Bool = false) {
    for task in tasks { task.process?.close() }
    if stopped {
      for task in tasks where !task.isZombie { kill(task.pid, SIGSTOP) }
    }
    freezer.release()
  }

  /// How many tasks are collected and written at a time.
  static let batchSize = 64

  /// What is seen of tasks from outside.
  private static func record(_ tasks: [DumpedTask], _ dump: DumpContext) throws(Failure) {
    for task in tasks where !task.isZombie {
      try AddressSpace.record(task, dump)
      try FileSystemContext.record(task, dump)
      try DescriptorTable.record(task, dump)
    }
  }

  /// Ends the tree, or lets it go as it was found.
  private static func release(_ tasks: [DumpedTask], _ freezer: inout Freezer, _ options: DumpOptions)
    throws(Failure)
  {
    if options.leaveRunning || options.leaveStopped { return letGo(tasks, &freezer, stopped: options.leaveStopped) }
    // Parents are ended before their children can bother them: nobody of the tree runs any more.
    for task in tasks where !task.isZombie { kill(task.pid, SIGKILL) }
    // Their parents hear of it only when the tracer has. The init of a PID namespace ends when everybody in it has been waited
    // for (kernel/pid_namespace.c: zap_pid_ns_processes), which may be up to somebody outside of the tree: the kernel goes on with
    // that when this process ends.
    var status: Int32 = 0
    var quiet = 0
    while quiet < 200 {
      let pid = withUnsafeMutablePointer(to: &status) {
        cl_syscall(Int(__NR_wait4), -1, Int(bitPattern: $0), 0x4000_0001 /* __WALL | WNOHANG */, 0, 0, 0)
      }
      if pid == -Int(ECHILD) { return }
      if pid == 0 { usleep(quiet < 100 ? 50 : 2_000) }
      quiet = pid == 0 ? quiet + 1 : 0
    }
  }

  /// For those who look at `stats-dump`; a dump is complete without it.
  private static func writeStatistics(_ dump: DumpContext) {
    var entry = StatsEntry()
    entry.dump = dump.statistics
    var buffer = ImageBuffer()
    do throws(ImageError) {
      if let folder = dump.options.workDirectory {
        try ImageDirectory(creating: FilePath(folder)).write(entry, to: .statsDump, using: &buffer)
      } else {
        try dump.directory.write(entry, to: .statsDump, using: &buffer)
      }
    } catch {
      dump.warnings.append("\(error)")
    }
  }
}

/// The user's wish to stop, looked for where going back is easy.
enum Interruption {
  /// Throws if there is one.
  static func check() throws(Failure) {
    guard let signal = Guarded.interruption else { return }
    throw Failure("interrupted by signal \(signal)", advice: "The tree runs on; the folder holds no checkpoint.")
  }
}
