import Checkpoint
import Glibc
import Linux
import Resources
import SystemPackage

/// A checkpoint as it is read: every image that a restore needs, checked for what can be checked without the system.
struct LoadedCheckpoint {
  let restore: RestoreContext
  private(set) var tree: [PstreeEntry]
  /// The number of the PID namespace that the tree was dumped from.
  let dumpersPIDNamespace: UInt32
  /// In the order of `tree`.
  let tasks: [RestoredTask]
  /// For each task, the core images of its threads; the leader's is first.
  let threadCores: [[CoreImage]]

  init(_ options: RestoreOptions, images: String) throws(Failure) {
    let directory = try Self.open(images)
    let inventory = try asFailure { () throws(ImageError) in try directory.readInventory(expecting: options.verify) }
    if options.verify, options.verifyMemory { try Self.refuseDamage(directory) }
    guard inventory.imgVersion == 1 || inventory.imgVersion == 2 else {
      throw Failure("inventory.img: img_version \(inventory.imgVersion) is not known, only 1 and 2 are")
    }
    let files = try asFailure { () throws(ImageError) in try directory.readAll(FileEntry.self, from: .files) }
    let restore = try RestoreContext(options: options, directory: directory, files: files)
    restore.namespaces.own = inventory.rootIds ?? TaskKobjIdsEntry()
    tree = try restore.all(PstreeEntry.self, .pstree)
    dumpersPIDNamespace = inventory.rootIds?.pidNsId ?? PIDNamespaces.ownID
    guard !tree.isEmpty else { throw Failure("pstree.img has no task") }
    try Self.readShared(restore)
    let read = try Self.readTasks(tree, restore)
    restore.directory.forgetCompared()
    self.restore = restore
    tasks = read.map(\.task)
    threadCores = read.map(\.cores)
  }

  /// What pstree.img says is known as a ``RecordedTree``: it need not be held twice.
  mutating func forgetTree() { tree = [] }

  /// Compares every image with its checksum, whether a restore would read it or not.
  static func verify(images: String) throws(Failure) {
    let directory = try open(images)
    _ = try asFailure { () throws(ImageError) in try directory.readInventory(expecting: true) }
    try refuseDamage(directory)
  }

  private static func refuseDamage(_ directory: borrowing ImageDirectory) throws(Failure) {
    let damage = try asFailure { () throws(ImageError) in try directory.damage(memory: true) }
    if damage.isEmpty { return }
    let lines = damage.map(\.description)
    throw Failure(
      lines.count == 1 ? lines[0] : "\(lines.count) images are damaged:\n  " + lines.joined(separator: "\n  "),
      advice: "Restore from another copy of the checkpoint.")
  }

  private static func open(_ path: String) throws(Failure) -> ImageDirectory {
    guard access(path, F_OK) == 0 else {
      throw Failure(
        "the images folder \(path)", Errno(rawValue: errno),
        advice: "Give the folder of a checkpoint with --images.")
    }
    guard access(path + "/inventory.img", F_OK) == 0 else {
      throw Failure(
        "\(path) is not a checkpoint: it has no inventory.img",
        advice: "The dump did not finish, or this is another folder; give a complete one with --images.",
        errno: .noSuchFileOrDirectory)
    }
    return try asFailure { () throws(ImageError) in try ImageDirectory(opening: FilePath(path)) }
  }

  /// What several tasks refer to.
  private static func readShared(_ restore: RestoreContext) throws(Failure) {
    for remap in try restore.all(RemapFilePathEntry.self, .remapFilePath, optional: true) {
      restore.remaps[remap.origId] = remap
    }
    for inode in try restore.all(MemfdInodeEntry.self, .memfd, optional: true) {
      restore.memfdInodes[UInt32(truncatingIfNeeded: inode.inodeId)] = inode
    }
    for terminal in try restore.all(TtyInfoEntry.self, .ttyInfo, optional: true) {
      restore.terminals[terminal.id] = terminal
    }
    if let seccomp = try restore.all(SeccompEntry.self, .seccomp, optional: true, isOne: true).first {
      restore.seccomp = seccomp
    }
    // Nothing of it is needed here, but a damaged one says that the rest may be too.
    _ = try restore.all(TimensEntry.self, .timens(0), optional: true, isOne: true)
    restore.pipeData = try pipeData(.pipesData, restore)
    restore.fifoData = try pipeData(.fifoData, restore)
  }

  private static func pipeData(_ file: ImageFile, _ restore: RestoreContext) throws(Failure) -> [UInt32: (
    PipeDataEntry, [UInt8]
  )] {
    var data: [UInt32: (PipeDataEntry, [UInt8])] = [:]
    guard restore.directory.contains(file) || restore.directory.expects(file) else { return data }
    do {
      var image = try ImageReader(file, in: restore.directory)
      while let entry = try image.next(PipeDataEntry.self) {
        data[entry.pipeId] = (entry, try image.raw(Int(entry.bytes)))
      }
    } catch {
      throw Failure(error)
    }
    return data
  }

  private typealias ReadTask = (task: RestoredTask, cores: [CoreImage])

  /// How many tasks or threads it takes for a second thread to be worth its while.
  private static let many = 32
  /// So many tasks are read in one go.
  private static let turn = 8

  /// The tracer and its companion read many tasks by turns; or half of the threads each, if a task has many of these. The companion has
  /// gone when this returns.
  private static func readTasks(_ tree: [PstreeEntry], _ restore: RestoreContext) throws(Failure) -> [ReadTask] {
    let companion = Companion()
    if max(tree.count, tree.map(\.threads.count).max() ?? 0) >= many { companion.hire() }
    if tree.count < many {
      var list: [ReadTask] = []
      var known = KnownStates()
      for entry in tree { list.append(try readTask(entry, like: list.last?.task, &known, restore, companion)) }
      return list
    }
    let turns = Turns((tree.count + turn - 1) / turn)
    typealias Read = (index: Int, tasks: [ReadTask])
    func readTurns() throws(Failure) -> [Read] {
      var list: [Read] = []
      var known = KnownStates()
      while let index = turns.next() {
        var read: [ReadTask] = []
        for entry in tree[(index * turn)..<min((index + 1) * turn, tree.count)] {
          read.append(try readTask(entry, like: (read.last ?? list.last?.tasks.last)?.task, &known, restore, nil))
        }
        list.append((index, read))
      }
      return list
    }
    var (mine, theirs): ([Read], [Read]) = ([], [])
    try companion.share(
      { () throws(Failure) in mine = try readTurns() },
      { () throws(Failure) in theirs = try readTurns() })
    return (mine + theirs).sorted { $0.index < $1.index }.flatMap(\.tasks)
  }

  private static func readCores(
    _ tids: [UInt32], like leader: CoreImage, _ restore: RestoreContext, _ companion: Companion?
  ) throws(Failure) -> [CoreImage] {
    func readAll(_ tids: ArraySlice<UInt32>) throws(Failure) -> [CoreImage] {
      var list: [CoreImage] = []
      var known = KnownStates()
      for tid in tids { list.append(CoreImage(try readCore(tid, like: list.last ?? leader, &known, restore))) }
      return list
    }
    guard tids.count >= many, let companion else { return try readAll(tids[...]) }
    var (mine, theirs): ([CoreImage], [CoreImage]) = ([], [])
    try companion.share(
      { () throws(Failure) in mine = try readAll(tids[..<(tids.count / 2)]) },
      { () throws(Failure) in theirs = try readAll(tids[(tids.count / 2)...]) })
    return mine + theirs
  }

  private static func readTask(
    _ entry: PstreeEntry, like previous: RestoredTask?, _ known: inout KnownStates, _ restore: RestoreContext,
    _ companion: Companion?
  ) throws(Failure) -> ReadTask {
    var core = try readCore(entry.pid, like: previous?.image, &known, restore)
    guard core.mtype == .x86_64 else {
      throw Failure("core-\(entry.pid).img: made on the architecture \(core.mtype); this is x86-64")
    }
    guard core.tc != nil else {
      throw Failure("core-\(entry.pid).img: the part of the process (tc) is missing")
    }
    if core.tc?.taskState == 2 || core.tc?.taskState == 6 {
      let image = CoreImage(core)
      return (RestoredTask(pid: entry.pid, core: image, ids: TaskKobjIdsEntry()), [image])
    }
    // Today's writers say it twice; what is there has to be whole.
    let apart = try restore.all(TaskKobjIdsEntry.self, .ids(entry.pid), optional: core.ids != nil, isOne: true).first
    guard let ids = core.ids ?? apart else { throw Failure("ids-\(entry.pid).img is empty") }
    core.ids = nil
    var (memory, pagemap) = try readMemory(of: entry.pid, restore, companion)
    if let previous {
      share(previous.memory.vmas, with: &memory.vmas)
      share(previous.memory.mmSavedAuxv, with: &memory.mmSavedAuxv)
    }
    let task = RestoredTask(pid: entry.pid, core: CoreImage(core), ids: ids, memory: memory, like: previous)
    task.fs = try restore.one(FsEntry.self, .fs(entry.pid))
    task.descriptors = try restore.all(FdinfoEntry.self, .fdinfo(ids.filesId))
    if let previous { share(previous.descriptors, with: &task.descriptors) }
    if let previous { share(previous.pagemap, with: &pagemap.entries) }
    (task.pagesID, task.pagemap) = (pagemap.pagesID, pagemap.entries)
    try checkPages(task, restore)
    try task.compareVDSO(restore)
    let cores = [task.image] + (try readCores(entry.threads.filter { $0 != entry.pid }, like: task.image, restore, companion))
    for (i, core) in cores.enumerated() where core.entry.threadInfo == nil || core.entry.threadCore == nil {
      let tid = i == 0 ? entry.pid : entry.threads.filter { $0 != entry.pid }[i - 1]
      throw Failure(
        "core-\(tid).img: the registers (thread_info) or the thread's part (thread_core) are missing")
    }
    return (task, cores)
  }

  /// Relatives have much in common; what is equal is held once.
  private static func share<T: Equatable>(_ value: T, with other: inout T) {
    if other == value { other = value }
  }

  /// Extended states of the CPU that were met last. Threads of one program are often in one of a few.
  private struct KnownStates {
    private var list: [UserX86FpregsEntry] = []

    mutating func hold(_ state: inout UserX86FpregsEntry) {
      if let same = list.last(where: { $0 == state }) {
        state = same
      } else {
        if list.count == 8 { list.removeFirst() }
        list.append(state)
      }
    }
  }

  private static func readCore(
    _ tid: UInt32, like previous: CoreImage?, _ known: inout KnownStates, _ restore: RestoreContext
  ) throws(Failure) -> CoreEntry {
    var core = try restore.one(CoreEntry.self, .core(tid))
    if var info = core.threadInfo {
      known.hold(&info.fpregs)
      core.threadInfo = info
    }
    if let alike = previous?.entry {
      if core.tc == alike.tc {
        core.$tc = alike.$tc
      } else if var tc = core.tc, let other = alike.tc {
        share(other.sigactions, with: &tc.sigactions)
        share(other.rlimits, with: &tc.rlimits)
        core.tc = tc
      }
      if core.threadCore == alike.threadCore {
        core.$threadCore = alike.$threadCore
      } else if var thread = core.threadCore, let other = alike.threadCore {
        share(other.$creds, with: &thread.$creds)
        share(other.comm, with: &thread.comm)
        share(other.cpuAffinity, with: &thread.cpuAffinity)
        core.threadCore = thread
      }
    }
    return core
  }

  private typealias Pagemap = (pagesID: UInt32, entries: [PagemapEntry])

  /// Bytes of the image of a task's mappings from which on the companion reads its page map meanwhile.
  private static let long = 256 << 10
  /// From which on what it says takes more memory than the program's code.
  private static let veryLong = 2 << 20

  private static func readMemory(
    of pid: UInt32, _ restore: RestoreContext, _ companion: Companion?
  ) throws(Failure) -> (MmEntry, Pagemap) {
    let bytes = try size(of: .mm(pid), restore)
    guard let companion, bytes >= long else {
      return (try restore.one(MmEntry.self, .mm(pid)), try readPagemap(of: pid, restore))
    }
    if bytes >= veryLong { dropCode() }
    companion.hire()
    var memory = MmEntry()
    var pagemap: Pagemap = (0, [])
    try companion.share(
      { () throws(Failure) in memory = try restore.one(MmEntry.self, .mm(pid)) },
      { () throws(Failure) in pagemap = try readPagemap(of: pid, restore) })
    return (memory, pagemap)
  }

  private static func readPagemap(of pid: UInt32, _ restore: RestoreContext) throws(Failure) -> Pagemap {
    do throws(ImageError) {
      var image = try ImageReader(.pagemap(pid), in: restore.directory)
      guard let head = try image.next(PagemapHead.self) else {
        throw ImageError(file: image.file.fileName, .missing(message: "pagemap_head"))
      }
      return (head.pagesId, try image.rest())
    } catch {
      throw Failure(error)
    }
  }

  private static func checkPages(_ task: RestoredTask, _ restore: RestoreContext) throws(Failure) {
    try task.checkPages(size: try size(of: .pages(task.pagesID), restore))
  }

  /// Bytes of an image; 0 if it is not there.
  private static func size(of file: ImageFile, _ restore: RestoreContext) throws(Failure) -> UInt64 {
    try about(file.fileName) { () throws(Errno) -> UInt64 in
      do throws(Errno) {
        let status = try fstat(at: restore.directory.descriptor.rawValue, file.fileName, followLinks: false)
        guard status.st_mode & S_IFMT == S_IFREG else { throw .tooManySymbolicLinkLevels }
        return UInt64(status.st_size)
      } catch {
        guard error == .noSuchFileOrDirectory else { throw error }
        return 0
      }
    }
  }
}

extension RestoreContext {
  /// The only entry of an image.
  func one<M: ImageMessage>(_ type: M.Type, _ file: ImageFile) throws(Failure) -> M {
    try asFailure { () throws(ImageError) in try directory.read(type, from: file) }
  }

  /// All entries of an image; none if it is optional and not there. `isOne`: where it is there, it has an entry.
  func all<M: ImageMessage>(_ type: M.Type, _ file: ImageFile, optional: Bool = false, isOne: Bool = false) throws(Failure) -> [M] {
    do throws(ImageError) {
      return isOne ? [try directory.read(type, from: file)] : try directory.readAll(type, from: file)
    } catch {
      if optional, case .system(call: "open", .noSuchFileOrDirectory) = error.problem, !directory.expects(file) { return [] }
      throw Failure(error)
    }
  }
}
