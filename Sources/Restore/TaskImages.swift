import Checkpoint
import Glibc
import Linux
import Resources
import SystemPackage

/// Reads the images of one task after the other; of what is equal in several, one is held. For one thread at a time.
final class TaskImages {
  private let restore: RestoreContext
  private var known = KnownParts()
  /// The task that was read last.
  private var relative: RestoredTask.Relative?

  /// A task, and the core images of its threads but the leader.
  typealias Read = (task: RestoredTask, others: [CoreImage])

  /// How many threads it takes for a second thread to be worth its while.
  private static let many = 32

  init(_ restore: RestoreContext) { self.restore = restore }

  /// Reads what there is of the task in an entry of pstree.img.
  func read(_ entry: PstreeEntry, at index: Int, _ companion: Companion?) throws(Failure) -> Read {
    var core = try readCore(entry.pid)
    guard core.mtype == .x86_64 else {
      throw Failure("core-\(entry.pid).img: made on the architecture \(core.mtype); this is x86-64")
    }
    guard core.tc != nil else {
      throw Failure("core-\(entry.pid).img: the part of the process (tc) is missing")
    }
    if core.tc?.taskState == 2 || core.tc?.taskState == 6 {
      return (RestoredTask(pid: entry.pid, at: index, core: CoreImage(core), ids: TaskKobjIdsEntry()), [])
    }
    // Today's writers say it twice; what is there has to be whole.
    let apart = try restore.all(TaskKobjIdsEntry.self, .ids(entry.pid), optional: core.ids != nil, isOne: true).first
    guard let ids = core.ids ?? apart else { throw Failure("ids-\(entry.pid).img is empty") }
    core.ids = nil
    var (memory, pagemap) = try readMemory(of: entry.pid, companion)
    if let relative {
      share(relative.vmas, with: &memory.vmas)
      share(relative.auxiliaryVector, with: &memory.mmSavedAuxv)
    }
    let task = RestoredTask(pid: entry.pid, at: index, core: CoreImage(core), ids: ids, memory: memory, like: relative)
    task.fs = try restore.one(FsEntry.self, .fs(entry.pid))
    let descriptors = try restore.all(FdinfoEntry.self, .fdinfo(ids.filesId))
    task.take(descriptors: descriptors, pagemap: pagemap.entries, like: relative)
    task.pagesID = pagemap.pagesID
    try task.checkPages(size: try size(of: .pages(task.pagesID)))
    try task.compareVDSO(restore)
    relative = task.relative
    let tids = entry.threads.filter { $0 != entry.pid }
    let others = try readCores(tids, companion)
    for (tid, core) in zip([entry.pid] + tids, [task.image] + others) { try Self.checkThread(core.entry, tid) }
    task.hasThreads = !others.isEmpty
    return (task, others)
  }

  private func readCores(_ tids: [UInt32], _ companion: Companion?) throws(Failure) -> [CoreImage] {
    func readAll(_ tids: ArraySlice<UInt32>, _ images: TaskImages) throws(Failure) -> [CoreImage] {
      var list: [CoreImage] = []
      for tid in tids { list.append(CoreImage(try images.readCore(tid))) }
      return list
    }
    guard tids.count >= Self.many, let companion else { return try readAll(tids[...], self) }
    let images = TaskImages(restore)
    images.known = known
    var (mine, theirs): ([CoreImage], [CoreImage]) = ([], [])
    try companion.share(
      { () throws(Failure) in mine = try readAll(tids[..<(tids.count / 2)], self) },
      { () throws(Failure) in theirs = try readAll(tids[(tids.count / 2)...], images) })
    return mine + theirs
  }

  private static func checkThread(_ core: CoreEntry, _ tid: UInt32) throws(Failure) {
    if core.threadInfo != nil, core.threadCore != nil { return }
    throw Failure("core-\(tid).img: the registers (thread_info) or the thread's part (thread_core) are missing")
  }

  private func readCore(_ tid: UInt32) throws(Failure) -> CoreEntry {
    var core = try restore.one(CoreEntry.self, .core(tid))
    known.hold(&core)
    return core
  }

  /// Has a task that rests know again what the images say of it.
  func wake(_ task: RestoredTask, _ parts: RestoredTask.Parts) throws(Failure) {
    let missing = task.forgotten.intersection(parts)
    try task.wake(parts) { (parts) throws(Failure) in try read(parts, of: task) }
    // They are not what they were, if somebody writes into the folder.
    if !missing.isDisjoint(with: [.memory, .pagemap]), task.forgotten.isDisjoint(with: [.memory, .pagemap]) {
      try task.checkPages(size: try size(of: .pages(task.pagesID)))
    }
  }

  private func read(_ parts: RestoredTask.Parts, of task: RestoredTask) throws(Failure) -> RestoredTask.Forgotten {
    var found = RestoredTask.Forgotten()
    if parts.contains(.memory) { found.memory = try readMappings(of: task.pid) }
    if parts.contains(.pagemap) { found.pagemap = try readPagemap(of: task.pid).entries }
    if parts.contains(.descriptors) { found.descriptors = try restore.all(FdinfoEntry.self, .fdinfo(task.ids.filesId)) }
    if parts.contains(.thread) {
      found.core = try restore.one(CoreEntry.self, .core(task.pid))
      try Self.checkThread(found.core, task.pid)
    }
    return found
  }

  private typealias Pagemap = (pagesID: UInt32, entries: [PagemapEntry])

  /// Bytes of the image of a task's mappings from which on the companion reads its page map meanwhile, and some of them.
  private static let long = 256 << 10
  /// From which on what it says takes more memory than the program's code.
  private static let veryLong = 2 << 20

  private func readMemory(
    of pid: UInt32, _ companion: Companion?
  ) throws(Failure) -> (MmEntry, Pagemap) {
    let bytes = try size(of: .mm(pid))
    guard let companion, bytes >= Self.long else {
      return (try readMappings(of: pid), try readPagemap(of: pid))
    }
    if bytes >= Self.veryLong { dropCode() }
    companion.hire()
    var image = try asFailure { () throws(ImageError) in try ImageReader(.mm(pid), in: restore.directory) }
    let descriptor = image.fileDescriptor
    // Half of all that is to be read for each.
    let middle = Int((bytes + (try size(of: .pagemap(pid)))) / 2)
    var (memory, others) = (MmEntry(), MmEntry())
    var pagemap: Pagemap = (0, [])
    try companion.share(
      { () throws(Failure) in memory = try asFailure { () throws(ImageError) in try image.mappings(beginningAt: 0..<middle) } },
      { () throws(Failure) in
        pagemap = try self.readPagemap(of: pid)
        others = try asFailure { () throws(ImageError) in
          var image = try ImageReader(.mm(pid), openedAs: descriptor)
          return try image.mappings(beginningAt: middle..<Int.max)
        }
      })
    memory.vmas += others.vmas
    return (memory, pagemap)
  }

  private func readMappings(of pid: UInt32) throws(Failure) -> MmEntry {
    try asFailure { () throws(ImageError) in
      var image = try ImageReader(.mm(pid), in: restore.directory)
      return try image.mappings()
    }
  }

  private func readPagemap(of pid: UInt32) throws(Failure) -> Pagemap {
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

  /// Bytes of an image; 0 if it is not there.
  func size(of file: ImageFile) throws(Failure) -> UInt64 {
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

/// Relatives have much in common; what is equal is held once.
private func share<T: Equatable>(_ value: T, with other: inout T) {
  if other == value { other = value }
}

/// Parts of core images that were met last. The tasks and threads of one program are often alike, in one of a few states.
private struct KnownParts {
  private var states: [UserX86FpregsEntry] = []
  private var processes: [CoreEntry] = []
  private var threads: [CoreEntry] = []

  /// More would be looked through for each.
  private static let most = 8

  mutating func hold(_ core: inout CoreEntry) {
    if var info = core.threadInfo {
      hold(&info.fpregs)
      core.threadInfo = info
    }
    if core.tc != nil { holdProcess(&core) }
    if core.threadCore != nil { holdThread(&core) }
  }

  private mutating func hold(_ state: inout UserX86FpregsEntry) {
    if let same = states.last(where: { $0 == state }) {
      state = same
    } else {
      Self.append(state, to: &states)
    }
  }

  private mutating func holdProcess(_ core: inout CoreEntry) {
    if let same = processes.last(where: { $0.tc == core.tc }) { return core.$tc = same.$tc }
    if var tc = core.tc, let other = processes.last?.tc {
      share(other.sigactions, with: &tc.sigactions)
      share(other.rlimits, with: &tc.rlimits)
      core.tc = tc
    }
    var part = CoreEntry()
    part.$tc = core.$tc
    Self.append(part, to: &processes)
  }

  private mutating func holdThread(_ core: inout CoreEntry) {
    if let same = threads.last(where: { $0.threadCore == core.threadCore }) { return core.$threadCore = same.$threadCore }
    if var thread = core.threadCore, let other = threads.last?.threadCore {
      share(other.$creds, with: &thread.$creds)
      share(other.comm, with: &thread.comm)
      share(other.cpuAffinity, with: &thread.cpuAffinity)
      core.threadCore = thread
    }
    var part = CoreEntry()
    part.$threadCore = core.$threadCore
    Self.append(part, to: &threads)
  }

  private static func append<T>(_ value: T, to list: inout [T]) {
    if list.count == most { list.removeFirst() }
    list.append(value)
  }
}
