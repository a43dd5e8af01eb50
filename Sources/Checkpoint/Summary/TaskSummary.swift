/// A process of an image set.
public struct TaskSummary: Sendable {
  public enum State: Sendable, Equatable {
    case alive
    /// By job control, with this signal where it is known.
    case stopped(signal: UInt32?)
    /// With the status that its parent will get (man 2 wait).
    case zombie(status: UInt32)
    /// A number that is not known here.
    case other(UInt32)
  }

  public struct Thread: Sendable {
    public var tid: UInt32
    public var comm: String
  }

  public struct Memory: Sendable {
    /// Mappings, without the vsyscall page that is no task's own.
    public var vmas = 0
    public var mappedBytes: UInt64 = 0
    /// Pages of private memory whose bytes are in the set.
    public var dumpedPages: UInt64 = 0
    /// Pages of private memory whose bytes are in the set that this one builds upon.
    public var parentPages: UInt64 = 0
  }

  public struct Descriptor: Sendable {
    public var number: UInt32
    public var isCloseOnExec: Bool
    public var file: FileSummary
  }

  /// PIDs as the PID namespace of the tree's root has them.
  public let pid: UInt32
  /// `nil` for the root.
  public let parent: UInt32?
  public let group: UInt32
  public let session: UInt32
  /// The PIDs at every level, outermost first; empty if the set knows of one level only.
  public let pidsPerLevel: [UInt32]
  public let state: State
  public let comm: String
  /// The leader first.
  public let threads: [Thread]
  /// The rest is what a zombie no longer has.
  public private(set) var memory: Memory?
  public private(set) var executable: FileSummary?
  public private(set) var workingDirectory: FileSummary?
  public private(set) var root: FileSummary?
  /// By number.
  public private(set) var descriptors: [Descriptor] = []

  init(
    _ entry: PstreeEntry, _ files: FileTable, fdinfoPerID: Bool, in directory: borrowing ImageDirectory,
    _ sharedMemory: inout SharedMemoryIDs
  ) throws(ImageError) {
    let image = ImageFile.core(entry.pid)
    let core = try directory.read(CoreEntry.self, from: image)
    guard let process = core.tc else {
      throw ImageError(file: image.fileName, entry: 0, .missing(message: "task_core_entry"))
    }
    pid = entry.pid
    parent = entry.ppid == 0 ? nil : entry.ppid
    group = entry.pgid
    session = entry.sid
    pidsPerLevel = entry.nsPids.first?.pid ?? []
    state = State(process)
    comm = text(process.comm)
    var threads = [Thread(tid: pid, comm: comm)]
    for tid in entry.threads where tid != pid {
      let core = try directory.read(CoreEntry.self, from: .core(tid))
      threads.append(Thread(tid: tid, comm: core.threadCore?.comm.map(text) ?? comm))
    }
    self.threads = threads
    if case .zombie = state { return }

    let mm = try directory.read(MmEntry.self, from: .mm(pid))
    memory = try Memory(mm, of: pid, in: directory)
    for vma in mm.vmas where vma.status & VMABits.sharedAnonymous != 0 { sharedMemory.insert(vma.shmid) }
    executable = try files.summary(of: mm.exeFileId)
    if directory.contains(.fs(pid)) {
      let fs = try directory.read(FsEntry.self, from: .fs(pid))
      workingDirectory = try files.summary(of: fs.cwdId)
      root = try files.summary(of: fs.rootId)
    }
    try readDescriptors(core, files, perID: fdinfoPerID, in: directory)
  }

  private mutating func readDescriptors(
    _ core: CoreEntry, _ files: FileTable, perID: Bool, in directory: borrowing ImageDirectory
  ) throws(ImageError) {
    var number = pid
    if perID {
      let ids: TaskKobjIdsEntry
      if let inside = core.ids { ids = inside } else { ids = try directory.read(from: .ids(pid)) }
      number = ids.filesId
    }
    // A task without a descriptor has no image of them.
    guard directory.contains(.fdinfo(number)) else { return }
    for entry in try directory.readAll(FdinfoEntry.self, from: .fdinfo(number)) {
      descriptors.append(
        Descriptor(
          number: entry.fd, isCloseOnExec: entry.flags & 1 != 0, file: try files.summary(of: entry.id)))
    }
    descriptors.sort { $0.number < $1.number }
  }
}

extension TaskSummary.State {
  fileprivate init(_ process: TaskCoreEntry) {
    switch process.taskState {
    case 1: self = .alive
    case 2, 6: self = .zombie(status: process.exitCode)
    case 3: self = .stopped(signal: process.stopSigno)
    default: self = .other(process.taskState)
    }
  }

  /// The word for scripts.
  public var name: String {
    switch self {
    case .alive: "alive"
    case .stopped: "stopped"
    case .zombie: "zombie"
    case .other(let number): "\(number)"
    }
  }
}

extension TaskSummary.Memory {
  fileprivate init(_ mm: MmEntry, of pid: UInt32, in directory: borrowing ImageDirectory) throws(ImageError) {
    for vma in mm.vmas where vma.status & VMABits.vsyscall == 0 {
      guard vma.start < vma.end, vma.end <= 1 << 57 else {
        throw ImageError(
          file: ImageFile.mm(pid).fileName, entry: 0,
          .malformed(message: "mm_entry", detail: "a VMA from \(vma.start) to \(vma.end)"))
      }
      vmas += 1
      mappedBytes &+= vma.end - vma.start
    }
    let pages = try PageCount(.pagemap(pid), in: directory)
    dumpedPages = pages.dumped
    parentPages = pages.inParent
  }
}

/// Bits of vma_entry.status.
private enum VMABits {
  static let vsyscall: UInt32 = 1 << 2
  static let sharedAnonymous: UInt32 = 1 << 8
}

/// Bytes of an image as text; what is not UTF-8 is replaced.
func text(_ bytes: some Sequence<UInt8>) -> String {
  String(decoding: bytes.prefix { $0 != 0 }.map { $0 }, as: UTF8.self)
}
