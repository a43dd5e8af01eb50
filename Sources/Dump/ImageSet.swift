import CLinux
import Checkpoint
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

/// Writes what was collected as image files; the inventory last. One thread at a time may use it.
final class ImageSet {
  private let dump: DumpContext
  private let tasks: [DumpedTask]
  private let namespaces: PIDNamespaces
  private var buffer = ImageBuffer()
  private var kernelObjects = KernelObjectIDs()
  /// Descriptor tables that have been written.
  private var tables: Set<UInt32> = []
  let byPID: [Int32: DumpedTask]

  init(_ dump: DumpContext, _ tasks: [DumpedTask], _ namespaces: PIDNamespaces) {
    self.dump = dump
    self.tasks = tasks
    self.namespaces = namespaces
    byPID = Dictionary(tasks.map { ($0.pid, $0) }, uniquingKeysWith: { first, _ in first })
  }

  /// Numbers the objects that tasks may share, which decides the names of files.
  func assignIDs() throws(Failure) {
    var memories: [UInt32: Int32] = [:]
    for task in tasks where !task.isZombie {
      task.ids = try kernelObjects.assign(task)
      if let other = memories.updateValue(task.pid, forKey: task.ids.vmId) {
        throw Failure(
          "cannot be dumped: \(task.description) shares its memory with task \(other) (clone-vm)",
          advice: "Nothing was changed; the tree runs on.")
      }
    }
  }

  /// Everything of some tasks but their memory.
  func write(_ part: [DumpedTask]) throws(Failure) {
    for task in part {
      try write(task)
      if task.isZombie { continue }
      let pid = UInt32(task.imagePID)
      try write(task.fs, to: .fs(pid))
      try write(task.ids, to: .ids(pid))
      if tables.insert(task.ids.filesId).inserted {
        try write(task.descriptorEntries, to: .fdinfo(task.ids.filesId))
      }
    }
  }

  /// The mappings of tasks, and where their pages are.
  func write(_ memory: [Collector.Memory]) throws(Failure) {
    for (task, id, pages) in memory.map({ ($0.task, $0.id, $0.pages) }) {
      let pid = UInt32(task.imagePID)
      try write(task.memory, to: .mm(pid))
      var image = try asFailure { () throws(ImageError) in try ImageWriter(.pagemap(pid), in: dump.directory)
      }
      var head = PagemapHead()
      head.pagesId = id
      do {
        try image.append(head)
        for entry in pages.entries(sharedWith: UInt32(byPID[task.parent]?.imagePID ?? 0)) { try image.append(entry) }
        try image.finish()
      } catch {
        throw Failure(error)
      }
    }
  }

  private func write(_ task: DumpedTask) throws(Failure) {
    if task.isZombie {
      var core = CoreEntry()
      core.mtype = .x86_64
      var tc = TaskCoreEntry()
      tc.taskState = 2
      tc.exitCode = UInt32(bitPattern: task.stat.exitCode)
      tc.comm = task.stat.comm
      tc.exitSignal = UInt32(bitPattern: task.stat.exitSignal)
      core.tc = tc
      try write(core, to: .core(UInt32(task.imagePID)))
      return
    }
    task.isChildSubreaper = task.threads[0].core.tc?.childSubreaper ?? false
    for thread in task.threads {
      if thread.isLeader { thread.core.ids = task.ids }
      try write(thread.core, to: .core(UInt32(task.imageTID(of: thread))))
    }
  }

  /// What belongs to the tree as a whole.
  func writeTree(seccomp: SeccompEntry) throws(Failure) {
    try RecordedTree(tasks, namespaces).check(dump.options)
    let pids = Dictionary(tasks.map { ($0.pid, $0.imagePID) }, uniquingKeysWith: { first, _ in first })
    var tree: [PstreeEntry] = []
    for task in tasks {
      var entry = PstreeEntry()
      entry.pid = UInt32(task.imagePID)
      entry.ppid = UInt32(pids[task.parent] ?? 0)
      let level = task.rootLevel
      entry.pgid = UInt32(task.status.nsPgid.count > level ? task.status.nsPgid[level] : 0)
      entry.sid = UInt32(task.status.nsSid.count > level ? task.status.nsSid[level] : 0)
      entry.threads = task.isZombie ? [entry.pid] : task.threads.map { UInt32(task.imageTID(of: $0)) }
      entry.exitSignal = UInt32(bitPattern: task.stat.exitSignal)
      if namespaces.areNested { Self.addLevels(of: task, to: &entry) }
      tree.append(entry)
    }
    try write(tree, to: .pstree)
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

  /// The inventory, which makes it a checkpoint.
  func finish() throws(Failure) {
    var inventory = InventoryEntry()
    inventory.imgVersion = 2
    inventory.fdinfoPerId = true
    inventory.nsPerId = true
    inventory.rootIds = kernelObjects.ownIDs
    inventory.rootCgSet = 1
    inventory.lsmtype = .noLsm
    do {
      if dump.options.checksumMemory { try dump.directory.noteMemory() }
      inventory.imageChecksum = dump.directory.checksums
      try dump.directory.writeInventory(inventory, sync: false, using: &buffer)
    } catch {
      throw Failure(error)
    }
  }

  /// What the format cannot say without extension fields: PIDs at every level.
  private static func addLevels(of task: DumpedTask, to entry: inout PstreeEntry) {
    let numbers = task.isZombie ? [task.status.nsTgid] : task.threads.map(\.status.nsPid)
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

/// Numbers for the memory, descriptor tables, directories and handlers that tasks may share (man 2 kcmp), and for namespaces.
struct KernelObjectIDs {
  /// What tasks that share an object have in common as well: others need not be compared.
  private struct Likeness: Hashable {
    var kind: KernelObject
    var hash: Int
  }

  private var known: [Likeness: [(pid: Int32, id: UInt32)]] = [:]
  private var counts: [KernelObject: UInt32] = [:]

  /// This process's own: 1 throughout, and the namespaces' numbers as they are for all tasks that live in the same ones.
  var ownIDs: TaskKobjIdsEntry { numbered(NamespaceTable.ownIDs, objects: (1, 1, 1, 1)) }

  mutating func assign(_ task: DumpedTask) throws(Failure) -> TaskKobjIdsEntry {
    let stat = task.stat
    let memory = [stat.startCode, stat.startStack, stat.startBrk, stat.argStart, stat.envStart].hashValue
    let files = task.descriptors.map(\.number).hashValue
    var entry = numbered(
      NamespaceTable.ownIDs,
      objects: (
        try id(.vm, memory, task.pid), try id(.files, files, task.pid), try id(.fs, Int(task.status.umask), task.pid),
        // Handlers are shared only by who shares memory (kernel/fork.c: copy_process; exec makes both new), and that is refused.
        next(.sighand)
      ))
    task.numberNamespaces(in: &entry)
    entry.pidNsId = task.pidNamespace
    return entry
  }

  private func numbered(_ entry: TaskKobjIdsEntry, objects: (UInt32, UInt32, UInt32, UInt32))
    -> TaskKobjIdsEntry
  {
    var entry = entry
    (entry.vmId, entry.filesId, entry.fsId, entry.sighandId) = objects
    return entry
  }

  /// Members are kept in kcmp's order, so that a search takes a logarithm of calls.
  private mutating func id(_ kind: KernelObject, _ hash: Int, _ pid: Int32) throws(Failure) -> UInt32 {
    let likeness = Likeness(kind: kind, hash: hash)
    var low = 0
    if let members = known[likeness] {
      var high = members.count
      while low < high {
        let middle = (low + high) / 2
        let order = try about("task \(pid): kcmp") { () throws(Errno) in
          try kcmp(pid, members[middle].pid, kind)
        }
        if order == 0 { return members[middle].id }
        if order < 0 { high = middle } else { low = middle + 1 }
      }
    }
    let id = next(kind)
    known[likeness, default: []].insert((pid, id), at: low)
    return id
  }

  private mutating func next(_ kind: KernelObject) -> UInt32 {
    counts[kind, default: 1] += 1
    return counts[kind, default: 1]
  }
}
