import CLinux
import Checkpoint
import Glibc
import Linux
import Resources
import SystemPackage
import Tracee

/// A checkpoint becomes a live tree: plan, fork, rebuild, release.
public enum Restore {
  /// What came of a restore.
  public struct Result {
    /// The root's PID, in the namespace of the tool.
    public var root: Int32
    /// The PID to wait for: the root's, or that of the init of the namespace that was made for the tree.
    public var top: Int32
    public var statistics: RestoreStatsEntry
    public var warnings: [String]
    /// How often a PID was tried again, because another process had it for a moment or was born in between.
    public var pidRetries = 0
    /// A process group of the tree has the terminal that was this process's (man 3 tcsetpgrp).
    public var hasForeground = false
  }

  /// So many tasks take more memory than the program's code.
  private static let many = 4096

  /// Restores the tree of the folder `images`. When this throws, nothing is left behind.
  public static func run(_ options: RestoreOptions, images: String) throws(Failure) -> Result {
    try Proc.check()
    var options = options
    keepMemory()
    while true {
      let plan = try Plan(options, images: images)
      // Images that are much larger than what is known of them when they have been read: a process with very many mappings.
      shrinkHeap()
      if plan.tasks.count > Self.many { dropCode() }
      do throws(Failure) {
        return try run(plan, images: images)
      } catch {
        // Which PID namespaces lie around this one, and who may choose PIDs there, is known only by asking for a root.
        guard error.errno == .invalidArgument || error.errno == .notPermitted, plan.levels.namedAround > 0,
          !plan.restore.rootExists
        else { throw error }
        options.unnamedLevels += 1
      }
    }
  }

  private static func run(_ plan: Plan, images: String) throws(Failure) -> Result {
    let begin = nanoseconds()
    try plan.checkPIDs()
    let pidfile = try PIDFile(plan.restore.options, images: images)
    try plan.restore.privileges.prepare()
    let construction = try Construction(plan)
    var statistics = RestoreStatsEntry()
    do throws(Failure) {
      try RestoredNamespaces.make(plan.restore)
      var forking = try Forking(construction)
      try forking.run()
      construction.areAllBorn = true
      construction.area.forgetSome()
      statistics.forkingTime = UInt32(clamping: (nanoseconds() - begin) / 1000)
      try Rebuilding(construction).run()
      CoreFlag.warn(plan)
      let inits = NamespaceInits(construction)
      try inits.prepare()
      // Who reads the PID may ask this process to stop at once: where it passes that on, the signal waits until it does.
      if construction.topPID != plan.tasks[0].tracerPID { Guarded.hold(Guarded.interruptions + [SIGCHLD]) }
      try pidfile?.write(plan.tasks[0].tracerPID)
      try Release(construction).run()
      inits.letGo()
    } catch {
      construction.destroy()
      throw error.advised("Nothing of the tree is left behind; when the cause is removed, restore again.").namingMissingCapabilities()
    }
    pidfile?.keep()
    plan.restore.links.remove()
    statistics.restoreTime = UInt32(clamping: (nanoseconds() - begin) / 1000)
    statistics.pagesRestored = plan.pages
    writeStatistics(statistics, plan.restore)
    return Result(
      root: plan.tasks[0].tracerPID, top: construction.topPID, statistics: statistics, warnings: plan.restore.warnings,
      pidRetries: construction.pidRetries, hasForeground: plan.restore.gaveForeground)
  }

  /// For those who look at `stats-restore`; the folder may be read-only, and the tree runs without it.
  private static func writeStatistics(_ statistics: RestoreStatsEntry, _ restore: RestoreContext) {
    var entry = StatsEntry()
    entry.restore = statistics
    var buffer = ImageBuffer()
    do throws(ImageError) {
      if let folder = restore.options.workDirectory {
        try ImageDirectory(creating: FilePath(folder)).write(entry, to: .statsRestore, using: &buffer)
      } else {
        try restore.directory.write(entry, to: .statsRestore, using: &buffer)
      }
    } catch {
      restore.warnings.append("\(error)")
    }
  }

  /// Waits for the process that a restored tree hangs below: its wait status (man 2 wait4). The init of a namespace is told of the
  /// signals that ask this process to stop, and passes them on to the root.
  public static func wait(_ result: Result) -> Int32 {
    if result.top != result.root { Guarded.hold(Guarded.interruptions + [SIGCHLD]) }
    var status: Int32 = 0
    while true {
      let waited = withUnsafeMutablePointer(to: &status) {
        cl_syscall(
          Int(__NR_wait4), Int(result.top), Int(bitPattern: $0), 0x4000_0000 | (result.top != result.root ? 1 : 0), 0, 0, 0)
      }
      if waited == 0 {
        let signal = Guarded.take(Guarded.interruptions + [SIGCHLD])
        if signal != SIGCHLD { kill(result.top, signal) }
      } else if waited != -Int(EINTR) {
        if result.hasForeground { Terminal.takeForeground() }
        return status
      }
    }
  }
}
