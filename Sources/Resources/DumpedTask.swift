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
  /// As it was seen after the freeze.
  public var status = ProcStatus.unread
  /// The threads as the tracer holds them, the leader first; none of a zombie.
  public let traced: [TracedThread]
  /// The same, with what is recorded of them. Of one with a single thread, from ``begin()`` to ``leave()``.
  public var threads: [DumpedThread] = []
  /// The way into it, from ``openWay()`` to ``leave()``.
  public private(set) var process: TracedProcess?
  /// Where it has its vDSO mapped.
  public var vdso: UInt64 = 0
  /// IDs of its POSIX timers and how they were made; asked from outside.
  public var posixTimers: [PosixTimerEntry] = []
  public var mappings: [Mapping] = []
  /// They were let go of, to be read again when it is its turn: so many were there.
  private var lostMappings: UInt32 = 0
  public var losesMappings: Bool { lostMappings > 0 }
  /// How many there are, or were.
  public var mappingCount: Int { losesMappings ? Int(lostMappings) : mappings.count }
  public var memory: MmEntry {
    _read { yield heldMemory.value }
    _modify { yield &heldMemory.value }
  }
  private var heldMemory = DumpedTask.nothing
  /// What is held of a task's memory before it is recorded, and when it is not needed any more.
  private static let nothing = Held(MmEntry())
  var told: AddressSpace.Told?
  /// The numbers of what it may share with others: the N of fdinfo-N.img, and so on.
  public var vmID: UInt32 = 0
  public var filesID: UInt32 = 0
  public var fsID: UInt32 = 0
  public var sighandID: UInt32 = 0
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
  public var rootLevel: Int32 = 0

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
    pid: Int32, parent: Int32, directory: consuming ProcDirectory, stat: ProcStat, traced: [TracedThread]
  ) {
    self.pid = pid
    self.parent = parent
    self.directory = directory
    self.stat = stat
    self.traced = traced
  }

  /// Which pages its memory has (man 5 proc_pid_pagemap).
  public func openPagemap() throws(Errno) -> Descriptor {
    if let copy { try Descriptor.open("/proc/\(copy)/pagemap") } else { try directory.open("pagemap") }
  }

  public var isZombie: Bool { traced.isEmpty }

  /// Whether it is worth the companion's while to do a part of what there is to do for its threads.
  public var hasManyThreads: Bool { traced.count >= 64 }

  /// The PID that names its images: as seen in the root's PID namespace.
  public var imagePID: Int32 { status.tgid(at: Int(rootLevel)) ?? pid }

  /// The TID that names a thread's image.
  public func imageTID(of thread: DumpedThread) -> Int32 { thread.status.pid(at: Int(rootLevel)) ?? thread.traced.tid }

  /// Those of all threads.
  public var imageTIDs: [Int32] { threads.isEmpty ? [imagePID] : threads.map { imageTID(of: $0) } }

  /// The numbers of its threads at every level, the leader's first.
  public var threadNumbers: [[Int32]] { threads.isEmpty ? [status.nsTgid] : threads.map(\.status.nsPid) }

  /// What its image says of what it may share with others.
  public var ids: TaskKobjIdsEntry {
    var ids = NamespaceTable.ownIDs
    (ids.vmId, ids.filesId, ids.fsId, ids.sighandId) = (vmID, filesID, fsID, sighandID)
    for namespace in namespaces { namespace.kind.set(namespace.id, in: &ids) }
    ids.pidNsId = pidNamespace
    return ids
  }

  /// `/proc` shows whom a timer wakes as the reader of it sees the thread; the task itself sees another number.
  public func nameTimersThreads() {
    guard status.levelCount > 1 else { return }
    for i in posixTimers.indices {
      guard let tid = posixTimers[i].notifyThreadId else { continue }
      let thread = threads.first { $0.traced.tid == tid }
      posixTimers[i].notifyThreadId = thread?.innermostID ?? (tid == pid ? status.nsPid.last : nil) ?? tid
    }
  }

  /// It is its turn to be recorded. A task that waits for that, or has been written, is small: there may be very many.
  public func begin() {
    if isZombie || !threads.isEmpty { return }
    let thread = DumpedThread(traced[0], isLeader: true, status: status)
    thread.task = self
    threads = [thread]
  }

  /// Makes the way into the stopped process, ``process``.
  public func openWay() throws(Failure) -> TracedProcess {
    if let process { return process }
    let new = try TracedProcess(pid: pid, threads: traced, vdso: vdso)
    process = new
    return new
  }

  /// Has its threads back in their stops, with nothing of the tracer's in it: nothing more is asked of it.
  public func leave() {
    process?.close()
    process = nil
    for thread in traced { thread.forget() }
    if threads.count == 1 { threads = [] }
  }

  /// Lets go of its mappings until it is its turn: there are many tasks, and no relative near it has the same.
  public func loseMappings() {
    lostMappings = UInt32(clamping: mappings.count)
    (mappings, scanAhead) = ([], nil)
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
