import Checkpoint
import Linux
import SystemPackage
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
  public var memory: MmEntry {
    _read { yield heldMemory.value }
    _modify { yield &heldMemory.value }
  }
  private var heldMemory = DumpedTask.nothing
  /// What is held of a task's memory before it is recorded, and when it is not needed any more.
  private static let nothing = Held(MmEntry())
  var told: AddressSpace.Told?
  public var ids = TaskKobjIdsEntry()
  public var fs = FsEntry()
  public var descriptors: [DumpedDescriptor] = []
  public var descriptorEntries: [FdinfoEntry] = []
  /// What of them the child that was looked at last has inherited.
  var lastInherited: [DumpedDescriptor] = []
  /// Those that are not the tracer's own.
  public var namespaces: [DumpedNamespace] = []

  /// The PID namespace that it lives in and, where it is another one, that of its children to come.
  public var pidNamespace = PIDNamespaces.ownID
  public var pidNamespaceForChildren: UInt32?
  /// How deep the PID namespace of the tree's root is nested in the tracer's; images are named by the PIDs of that level.
  public var rootLevel = 0

  public var isChildSubreaper = false
  /// The process whose memory is dumped in place of the task's: a copy of it, made while it was frozen.
  public var copy: Int32?
  /// What was seen of its pages while its mappings were read.
  public var scanAhead: PageScan?
  /// Whether the flags of its mappings were read before it was frozen, and are still to be compared.
  public var isForeseen = false
  /// Whether the tree has children of it.
  public var hasChildren = false
  /// Whether `/proc` is to the task what it is to the tracer: it has the same PID and mount namespaces and root directory.
  public internal(set) var seesTracer = false

  public init(
    pid: Int32, parent: Int32, directory: consuming ProcDirectory, stat: ProcStat, status: ProcStatus
  ) {
    self.pid = pid
    self.parent = parent
    self.directory = directory
    self.stat = stat
    self.status = status
  }

  /// Which pages its memory has (man 5 proc_pid_pagemap).
  public func openPagemap() throws(Errno) -> Descriptor {
    if let copy { try Descriptor.open("/proc/\(copy)/pagemap") } else { try directory.open("pagemap") }
  }

  public var isZombie: Bool { threads.isEmpty }

  /// Whether it is worth the companion's while to do a part of what there is to do for its threads.
  public var hasManyThreads: Bool { threads.count >= 64 }

  /// The PID that names its images: as seen in the root's PID namespace.
  public var imagePID: Int32 { status.nsTgid.count > rootLevel ? status.nsTgid[rootLevel] : pid }

  /// The TID that names a thread's image.
  public func imageTID(of thread: DumpedThread) -> Int32 {
    thread.status.nsPid.count > rootLevel ? thread.status.nsPid[rootLevel] : thread.traced.tid
  }

  /// `/proc` shows whom a timer wakes as the reader of it sees the thread; the task itself sees another number.
  public func nameTimersThreads() {
    guard status.nsPid.count > 1 else { return }
    for i in threads[0].posixTimers.indices {
      guard let tid = threads[0].posixTimers[i].notifyThreadId else { continue }
      let thread = threads.first { $0.traced.tid == tid }
      threads[0].posixTimers[i].notifyThreadId = thread?.innermostID ?? tid
    }
  }

  /// Gives back the memory of what is in the images now.
  public func forgetWritten() {
    mappings = []
    forgetDescriptors()
    for thread in threads { thread.core = CoreEntry() }
    process?.area?.forgetPages()
  }

  /// The same for its descriptors, and the tracer's duplicates of them.
  public func forgetDescriptors() {
    descriptors = []
    descriptorEntries = []
    lastInherited = []
  }

  /// The same for the mappings, which children are compared with.
  public func forgetMappings() {
    heldMemory = Self.nothing
    told = nil
  }

  /// What its image says of its memory.
  public var wholeMemory: MmEntry {
    var whole = memory
    told?.complete(&whole)
    return whole
  }

  /// "task 12 (bash)"
  public var description: String { "task \(pid) (\(stat.comm.text))" }
}
