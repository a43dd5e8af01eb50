import CLinux
import Checkpoint
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

/// Writes what was collected as image files; the inventory last. One thread at a time may use it, but for a
/// ``Part`` and ``writeOne(_:of:_:)``.
final class ImageSet {
  private let dump: DumpContext
  private let tasks: [DumpedTask]
  private let namespaces: PIDNamespaces
  private var buffer = ImageBuffer()
  /// Descriptor tables that have been written.
  private var tables: Set<UInt32> = []
  let byPID: [Int32: DumpedTask]

  init(_ dump: DumpContext, _ tasks: [DumpedTask], _ namespaces: PIDNamespaces) {
    self.dump = dump
    self.tasks = tasks
    self.namespaces = namespaces
    byPID = Dictionary(tasks.map { ($0.pid, $0) }, uniquingKeysWith: { first, _ in first })
  }

  /// Numbers the objects that tasks may share, which decides the names of files. `meanwhile` is done by the tracer in its half of the time.
  func assignIDs(_ companion: Companion, meanwhile: () throws(Failure) -> Void) throws(Failure) {
    let live = tasks.filter { !$0.isZombie }
    let memories = KernelObjectIDs(.vm) { task in Int(task.stat.memoryHash) }
    let directories = KernelObjectIDs(.fs) { task in Int(task.status.umask) }
    let tables = KernelObjectIDs(.files) { task in task.descriptors.map(\.number).hashValue }
    try companion.share(
      { () throws(Failure) in
        try meanwhile()
        try tables.assign(live)
      },
      { () throws(Failure) in
        try memories.assign(live)
        try directories.assign(live)
      })
    if let (task, other) = memories.firstShared {
      throw Failure(
        "cannot be dumped: \(task.description) shares its memory with task \(other.pid) (clone-vm)",
        advice: "Nothing was changed; the tree runs on.")
    }
    for (i, task) in live.enumerated() {
      task.vmID = memories.ids[i]
      task.filesID = tables.ids[i]
      task.fsID = directories.ids[i]
      // Handlers are shared only by who shares memory (kernel/fork.c: copy_process; exec makes both new), and that is refused.
      task.sighandID = UInt32(i) + 2
    }
  }

  /// What is to be written of some tasks: everything but the threads of those with many.
  func part(_ tasks: [DumpedTask], _ memory: [MemoryScan.Found]) -> Part {
    var items: [Part.Item] = tasks.map { .task($0, hasTable: !$0.isZombie && tables.insert($0.filesID).inserted) }
    items += memory.map { .memory($0) }
    return Part(self, items)
  }

  /// Images that whoever has time writes, some at a time.
  final class Part {
    enum Item {
      case task(DumpedTask, hasTable: Bool)
      case memory(MemoryScan.Found)
    }

    private let images: ImageSet
    private let items: [Item]
    private let turns: Turns

    init(_ images: ImageSet, _ items: [Item]) {
      self.images = images
      self.items = items
      turns = Turns(items.count)
    }

    /// Writes what nobody has begun with.
    func write() throws(Failure) {
      var buffer = ImageBuffer()
      while let turn = turns.next() {
        do throws(ImageError) {
          switch items[turn] {
          case .task(let task, let hasTable): try images.write(task, hasTable: hasTable, &buffer)
          case .memory(let found): try images.write(found, &buffer)
          }
        } catch {
          throw Failure(error)
        }
      }
    }
  }

  /// The mappings of a task, and where its pages are.
  private func write(_ memory: MemoryScan.Found, _ buffer: inout ImageBuffer) throws(ImageError) {
    let task = memory.task
    let pid = UInt32(task.imagePID)
    try dump.directory.write(mappings: task.wholeMemory, to: .mm(pid), using: &buffer)
    try dump.directory.write(.pagemap(pid), using: &buffer) { (image) throws(ImageError) in
      var head = PagemapHead()
      head.pagesId = memory.id
      try image.append(head)
      for entry in memory.pages.entries(sharedWith: UInt32(byPID[task.parent]?.imagePID ?? 0)) { try image.append(entry) }
    }
  }

  private func write(_ task: DumpedTask, hasTable: Bool, _ buffer: inout ImageBuffer) throws(ImageError) {
    let pid = UInt32(task.imagePID)
    if task.isZombie {
      var core = CoreEntry()
      core.mtype = .x86_64
      var tc = TaskCoreEntry()
      tc.taskState = 2
      tc.exitCode = UInt32(bitPattern: task.stat.exitCode)
      tc.comm = task.stat.comm
      tc.exitSignal = UInt32(bitPattern: task.stat.exitSignal)
      core.tc = tc
      return try dump.directory.write(core, to: .core(pid), using: &buffer)
    }
    task.isChildSubreaper = task.threads[0].core.tc?.childSubreaper ?? false
    for thread in task.threads {
      if thread.isLeader { thread.core.ids = task.ids } else if task.hasManyThreads { break }
      try dump.directory.write(thread.core, to: .core(UInt32(task.imageTID(of: thread))), using: &buffer)
    }
    try dump.directory.write(task.fs, to: .fs(pid), using: &buffer)
    try dump.directory.write(task.ids, to: .ids(pid), using: &buffer)
    if hasTable { try dump.directory.write(task.descriptorEntries, to: .fdinfo(task.filesID), using: &buffer) }
  }

  /// A thread of a task with many, whatever else is being written meanwhile.
  func writeOne(_ thread: DumpedThread, of task: DumpedTask, _ buffer: inout ImageBuffer) throws(Failure) {
    do {
      try dump.directory.write(thread.core, to: .core(UInt32(task.imageTID(of: thread))), using: &buffer)
    } catch {
      throw Failure(error)
    }
  }

  /// What belongs to the tree as a whole.
  func writeTree(seccomp: SeccompEntry) throws(Failure) {
    try TreeRecord(tasks, namespaces).check(dump.options)
    do {
      // One at a time: all together would take much memory.
      try dump.directory.write(.pstree, using: &buffer) { (image) throws(ImageError) in
        for task in tasks { try image.append(self.entry(of: task)) }
      }
    } catch {
      throw Failure(error)
    }
    for (id, entry) in namespaces.images { try write(entry, to: .pidns(id)) }
    try write(dump.files.entries, to: .files)
    try write(seccomp, to: .seccomp)
    if !dump.remaps.isEmpty { try write(dump.remaps, to: .remapFilePath) }
    if !dump.memfds.isEmpty { try write(dump.memfds, to: .memfd) }
    if !dump.terminals.isEmpty { try write(dump.terminals, to: .ttyInfo) }
    try dump.namespaces?.record(dump)
    try write(dump.pipeData, to: .pipesData)
    if !dump.fifoData.isEmpty { try write(dump.fifoData, to: .fifoData) }
    try write(Self.clocks(), to: .timens(0))
  }

  /// A task in the tree.
  private func entry(of task: DumpedTask) -> PstreeEntry {
    var entry = PstreeEntry()
    entry.pid = UInt32(task.imagePID)
    entry.ppid = UInt32(byPID[task.parent]?.imagePID ?? 0)
    let level = Int(task.rootLevel)
    entry.pgid = UInt32(task.status.nsPgid.count > level ? task.status.nsPgid[level] : 0)
    entry.sid = UInt32(task.status.nsSid.count > level ? task.status.nsSid[level] : 0)
    entry.threads = task.isZombie ? [entry.pid] : task.imageTIDs.map { UInt32($0) }
    entry.exitSignal = UInt32(bitPattern: task.stat.exitSignal)
    if namespaces.areNested { Self.addLevels(of: task, to: &entry) }
    return entry
  }

  /// The inventory, which makes it a checkpoint.
  func finish() throws(Failure) {
    var inventory = InventoryEntry()
    inventory.imgVersion = 2
    inventory.fdinfoPerId = true
    inventory.nsPerId = true
    // This process's own: 1 throughout, and the namespaces' numbers as they are for all tasks that live in the same ones.
    var own = NamespaceTable.ownIDs
    (own.vmId, own.filesId, own.fsId, own.sighandId) = (1, 1, 1, 1)
    inventory.rootIds = own
    inventory.rootCgSet = 1
    inventory.lsmtype = .noLsm
    do {
      if dump.options.checksumMemory { try dump.directory.noteMemory() }
      try dump.directory.writeInventory(inventory, sync: false, using: &buffer)
    } catch {
      throw Failure(error)
    }
  }

  /// What the format cannot say without extension fields: PIDs at every level.
  private static func addLevels(of task: DumpedTask, to entry: inout PstreeEntry) {
    let numbers = task.threadNumbers
    entry.nsPids = numbers.map { pids in
      var entry = NsPidsEntry()
      entry.pid = pids.map { UInt32($0) }
      return entry
    }
    entry.nsPids[0].pidForChildrenNsId = task.pidNamespaceForChildren
    entry.nsPgid = task.status.nsPgid.map { UInt32($0) }
    entry.nsSid = task.status.nsSid.map { UInt32($0) }
    entry.pidNsId = task.pidNamespace
  }

  private func write(_ message: some ImageMessage, to file: ImageFile) throws(Failure) {
    do { try dump.directory.write(message, to: file, using: &buffer) } catch { throw Failure(error) }
  }

  private func write(_ messages: [some ImageMessage], to file: ImageFile) throws(Failure) {
    do { try dump.directory.write(messages, to: file, using: &buffer) } catch { throw Failure(error) }
  }

  private func write(_ data: [(entry: PipeDataEntry, bytes: [UInt8])], to file: ImageFile)
    throws(Failure)
  {
    do {
      var image = try ImageWriter(file, in: dump.directory)
      for (entry, bytes) in data {
        try image.append(entry)
        try image.append(raw: bytes)
      }
      try image.finish()
    } catch {
      throw Failure(error)
    }
  }

  /// The clocks at the dump, which restorers that make time namespaces look at.
  private static func clocks() -> TimensEntry {
    func time(_ clock: clockid_t) -> Timespec {
      let now = nanoseconds(clock)
      var t = Timespec()
      t.tvSec = now / 1_000_000_000
      t.tvNsec = now % 1_000_000_000
      return t
    }
    var entry = TimensEntry()
    entry.monotonic = time(CLOCK_MONOTONIC)
    entry.boottime = time(CLOCK_BOOTTIME)
    return entry
  }
}
