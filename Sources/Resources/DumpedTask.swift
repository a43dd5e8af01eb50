import Checkpoint
import Linux
import Tracee

/// A process under dump: what is known of it from outside, and what is recorded of it.
public final class DumpedTask {
  public let pid: Int32
  public let parent: Int32
  public let directory: ProcDirectory
  public let stat: ProcStat
  public let status: ProcStatus
  /// Empty for a zombie.
  public var threads: [DumpedThread] = []
  public var process: TracedProcess?
  public var mappings: [Mapping] = []
  public var memory = MmEntry()
  public var ids = TaskKobjIdsEntry()
  public var fs = FsEntry()
  /// Its descriptors, with the kind of each.
  public var descriptors: [(file: DumpedFile, kind: any FileKind.Type)] = []
  public var descriptorEntries: [FdinfoEntry] = []
  public var core = CoreEntry()
  /// Those that are not the tracer's own.
  public var namespaces: [DumpedNamespace] = []

  public init(
    pid: Int32, parent: Int32, directory: consuming ProcDirectory, stat: ProcStat, status: ProcStatus
  ) {
    self.pid = pid
    self.parent = parent
    self.directory = directory
    self.stat = stat
    self.status = status
  }

  public var isZombie: Bool { threads.isEmpty }

  /// Gives back the memory of what is in the images now; the mappings are kept for children to be compared with.
  public func forgetWritten(keepMappings: Bool) {
    mappings = []
    descriptors = []
    descriptorEntries = []
    if !keepMappings { memory = MmEntry() }
    for thread in threads { thread.core = CoreEntry() }
    process?.area?.forgetPages()
  }

  /// "task 12 (bash)"
  public var description: String { "task \(pid) (\(stat.comm.text))" }
}
