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
    KernelIterator.areAllowed = options.usesKernelIterators
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

  /// So many tasks take more memory than the program's code; and so many mappings of one.
  private static let many = 4096
  private static let manyMappings = 32768

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

    let companion = Companion(givingRoom: true)
    if DescriptorTable.isLarge(options.pid), companion.hire() { companion.start { _ = OpenFiles.canBeAsked } }
    let pagesAhead = options.snapshot ? nil : PagesAhead(in: dump.directory.descriptor.rawValue)
    let glances = Glances(companion, foresight, pagesAhead)
    var freezer = Freezer(glances)
    try freezer.freeze(root: options.pid, timeout: max(options.timeout, 1))
    Ptrace.takeDead(of: freezer.tasks.flatMap { $0.traced.map(\.tid) })
    let frozen = nanoseconds()
    dump.statistics.freezingTime = UInt32(clamping: (frozen - begin) / 1000)
    func noteFrozenTime() { dump.statistics.frozenTime = UInt32(clamping: (nanoseconds() - frozen) / 1000) }

    let survey: Survey
    do throws(Failure) {
      survey = try Survey(looking: freezer.tasks, glances, options, companion)
      try refuse(survey.objections)
      dump.namespaces = survey.namespaces
      try Interruption.check()
    } catch {
      glances.end()
      // Duplicates of its descriptors are not for a tree that runs on (KeptDuplicate).
      for task in freezer.tasks { task.forgetDescriptors() }
      freezer.release()
      throw error
    }
    freezer.handOver()
    if survey.tasks.count > Self.many || survey.tasks.contains(where: { $0.mappingCount > Self.manyMappings }) { dropCode() }
    // Most of what was known of such a tree is not held any more.
    if survey.tasks.contains(where: \.losesMappings) { shrinkHeap() }

    let snapshot = options.snapshot ? Snapshot(dump, foresight) : nil
    do throws(Failure) {
      let images = ImageSet(dump, survey.tasks, survey.pidNamespaces)
      let scan = MemoryScan(dump, images.byPID)
      let batches = Batches(survey.tasks, images, scan, snapshot, Collector(dump, deadManSwitch, pagesAhead), companion)
      try batches.write()
      if let snapshot {
        letGo(survey.tasks, dump)
        noteFrozenTime()
        try snapshot.write(images, scan)
      }
      scan.noteStatistics()
      try images.finish()
    } catch {
      companion.settle()
      letGo(survey.tasks, dump)
      snapshot?.end()
      dump.links.remove()
      throw error
    }
    if !options.snapshot {
      release(survey.tasks, dump, companion)
      noteFrozenTime()
    }
    writeStatistics(dump)
    deadManSwitch.retire()
    leaveBehind((dump, survey, deadManSwitch))
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

  /// The tasks run on, as they were found; or have been stopped before.
  private static func letGo(_ tasks: [DumpedTask], _ dump: DumpContext, stopped: Bool = false) {
    for task in tasks { task.process?.close() }
    dump.files.forgetDuplicates()
    for task in tasks { task.forgetDescriptors() }
    if stopped {
      for task in tasks where !task.isZombie { kill(task.pid, SIGSTOP) }
    }
    for task in tasks { for thread in task.traced { thread.detach() } }
  }

  /// Ends the tree, or lets it go as it was found.
  private static func release(_ tasks: [DumpedTask], _ dump: DumpContext, _ companion: Companion) {
    let options = dump.options
    if options.leaveRunning || options.leaveStopped { return letGo(tasks, dump, stopped: options.leaveStopped) }
    // Parents are ended before their children can bother them: nobody of the tree runs any more.
    // Who is killed is woken, and often on the processor of who kills; one that exits has its memory to give back.
    let pids = tasks.filter { !$0.isZombie }.map(\.pid)
    let turns = Turns(pids.count)
    func killAll() { while let turn = turns.next() { kill(pids[turn], SIGKILL) } }
    companion.start { killAll() }
    killAll()
    companion.settle()
    helpEnd(tasks)
    takeDead(tasks)
  }

  /// A single large task takes long to give its memory back: this processor takes a part of it (process_mrelease of mm/oom_kill.c). Where
  /// that cannot be, before Linux 5.15, the task does it all.
  private static func helpEnd(_ tasks: [DumpedTask]) {
    let large = tasks.filter { !$0.isZombie && $0.status.residentKB > 64 << 10 }
    guard large.count == 1, let pidfd = try? pidfdOpen(large[0].pid) else { return }
    _ = cl_syscall(Int(__NR_process_mrelease), Int(pidfd.rawValue), 0, 0, 0, 0, 0)
  }

  /// Waits for the ends of those who were killed: their parents hear of it only when the tracer has. The init of a PID namespace ends
  /// when everybody in it has been waited for (kernel/pid_namespace.c: zap_pid_ns_processes), which may be up to somebody outside of
  /// the tree: the kernel goes on with that when this process ends.
  private static func takeDead(_ tasks: [DumpedTask]) {
    // Children before their parents, leaders behind their threads; each by its TID, for whom the kernel need not search.
    for task in tasks.reversed() {
      for thread in task.traced.reversed() {
        var quiet = 0
        while cl_syscall(Int(__NR_wait4), Int(thread.tid), 0, 0x4000_0001 /* __WALL | WNOHANG */, 0, 0, 0) == 0 {
          if quiet == 200 { return }
          usleep(quiet < 100 ? 50 : 2_000)
          quiet += 1
        }
      }
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
