import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// What the kinds share while a tree is made again. All that is opened here is closed when the restore ends.
public final class RestoreContext {
  public let options: RestoreOptions
  public let directory: ImageDirectory
  /// `files.img` by ID.
  public internal(set) var files: RecordedFiles
  /// The PIDs of the tree's processes.
  public var pids: Set<UInt32> = []
  /// The processes of the tree by PID, as far as they have been read.
  public var tasks: [UInt32: RestoredTask] = [:]
  public var remaps: [UInt32: RemapFilePathEntry] = [:]
  public var memfdInodes: [UInt32: MemfdInodeEntry] = [:]
  public var terminals: [UInt32: TtyInfoEntry] = [:]
  public var pipeData: [UInt32: (PipeDataEntry, [UInt8])] = [:]
  /// Pipes that have been made, by their IDs.
  var pipes: [UInt32: Pipe.Made] = [:]
  /// The ends of all pipes, by their IDs.
  var pipeEnds: [UInt32: Pipe.Ends] = [:]
  private(set) lazy var newPipeSize = Pipe.newSize(privileges)
  public var fifoData: [UInt32: (PipeDataEntry, [UInt8])] = [:]
  /// Temporary names that a dump gave to files without one; removed when the tree is complete.
  public let links = TemporaryLinks()
  public var seccomp = SeccompEntry()
  public var sharedMemory = RestoredSharedMemory()
  public var namespaces = RestoredNamespaces()
  public let mounts: RestoredMounts
  /// IDs of descriptions whose kind has more for a task to do than fitted into its program (``FileKind/complete``).
  public var unfinished: Set<UInt32> = []
  /// Bytes of each anonymous shared mapping: as many as the farthest mapping of it reaches.
  public var sharedMemorySizes: [UInt64: UInt64] = [:]
  /// The descriptors that every stub inherits.
  public var service = ServiceDescriptors()
  /// Set when the first task has been made.
  public var rootExists = false
  /// PIDs and TIDs of the tree as the tracer sees them, by those of the images, where these are not the same ones.
  public var tracerNumbers: [Int32: Int32] = [:]
  public var warnings: [String] = []
  public let privileges: Privileges
  public var concessions = Concessions()
  /// What stubs are born with, as far as it is known before there are any.
  public private(set) lazy var expectedStub = StubState(expectedWith: privileges)
  /// A group of the tree was made the terminal's foreground process group.
  public var gaveForeground = false

  /// Items of interest lists that are still to be added, by the ID of their epoll instance.
  var interestLists: [UInt32: Epoll.InterestList] = [:]

  /// How many descriptors, mappings and others refer to each description, by the place of its entry. It is checked for the first one.
  private var users: [Int]
  /// Files that are what the images say: many descriptions may be of the same one.
  var confirmedFiles: Set<RegularFile.Expectation> = []
  /// The last of them, which is often the next one too.
  var confirmedFile: RegularFile.Expectation?
  /// Folders of such files that no symbolic link leads to.
  var confirmedFolders: Set<[UInt8]> = []
  /// Descriptions that have been made, by the places of their entries, as descriptors of this process; -1: not yet.
  private var opened: [Int32]
  /// Whether descriptions need nobody (``needsNobody(_:)``), as far as that was asked, by the places of their entries.
  private var independent: [Bool?]
  /// Other descriptors to close at the end, such as both ends of a pipe, by whatever its kind calls them.
  private var kept: [String: Int32] = [:]
  private var givenOut: Set<String> = []

  public init(options: RestoreOptions, directory: consuming ImageDirectory, files: [FileEntry])
    throws(Failure)
  {
    self.options = options
    privileges = Privileges(options)
    self.directory = directory
    self.files = try RecordedFiles(files)
    users = Array(repeating: 0, count: files.count)
    opened = Array(repeating: -1, count: files.count)
    independent = Array(repeating: nil, count: files.count)
    mounts = try about("opening /proc") { () throws(Errno) in try RestoredMounts() }
  }

  deinit {
    Self.close(Set(opened).subtracting([-1]).union(kept.values).union(pipes.values.flatMap { [$0.read, $0.write] }))
    sharedMemory.closeAll()
    namespaces.closeAll()
  }

  /// Closes many descriptors, neighbours by one call.
  private static func close(_ descriptors: Set<Int32>) {
    var run: ClosedRange<Int32>?
    func flush() {
      guard let run else { return }
      _ = cl_syscall(Int(__NR_close_range), Int(run.lowerBound), Int(run.upperBound), 0, 0, 0, 0)
    }
    for fd in descriptors.sorted() {
      if let last = run, last.upperBound + 1 == fd {
        run = last.lowerBound...fd
      } else {
        flush()
        run = fd...fd
      }
    }
    flush()
  }

  /// Checks the entry of a description before anything is made, unless that has been done for another user of it.
  func check(_ id: UInt32, for user: @autoclosure () -> String) throws(Failure) {
    let place = try place(of: id, for: user())
    if users[place] == 0 {
      let entry = files.values[place]
      try kind(of: entry).check(entry, self)
    }
    users[place] += 1
  }

  /// Whether everything in files.img has somebody who has it open. What refers to it was lost otherwise: images of other tools have no
  /// checksums, and the list of a task's descriptors can be cut short between two of them.
  public func checkUsers() throws(Failure) {
    var named = Set(remaps.values.filter { $0.remapType ?? .linked == .linked }.map(\.remapId))
    // The paths of named pipes and terminals are in entries of their own.
    for entry in files.values {
      if let fifo = entry.fifo { named.insert(fifo.regfId ?? fifo.id) }
      if let path = entry.tty?.regfId { named.insert(path) }
    }
    guard let lost = zip(files.values, users).first(where: { $1 == 0 && !named.contains($0.id) })?.0 else { return }
    throw Failure(
      "files.img: nobody refers to file \(lost.id), so that a list of those who do is not whole (fdinfo-, fs-, mm-)",
      advice: "The images are damaged or incomplete; dump again.")
  }

  /// Whether one descriptor refers to a description, or one mapping, and nothing else in the tree.
  func hasOneUser(_ id: UInt32) -> Bool { files.place(of: id).map { users[$0] == 1 } ?? false }

  /// The entry of a description, or the complaint that it is missing.
  public func entry(_ id: UInt32, for user: @autoclosure () -> String) throws(Failure) -> FileEntry {
    files.values[try place(of: id, for: user())]
  }

  private func place(of id: UInt32, for user: @autoclosure () -> String) throws(Failure) -> Int {
    guard let place = files.place(of: id) else { throw Failure("\(user()): file \(id) is not in files.img") }
    return place
  }

  /// The kind of an entry.
  public func kind(of entry: FileEntry) throws(Failure) -> any FileKind.Type {
    guard let kind = Self.kind(of: entry.type) else {
      throw Failure(
        "files.img: file \(entry.id) is of the kind \(entry.type), which swift-restore does not restore yet")
    }
    return kind
  }

  static func kind(of type: FdTypes) -> (any FileKind.Type)? {
    let number = Int(type.rawValue)
    return kinds.indices.contains(number) ? kinds[number] : nil
  }

  /// By the numbers of their types.
  private static let kinds: [(any FileKind.Type)?] = {
    var kinds: [(any FileKind.Type)?] = []
    for kind in fileKinds {
      let number = Int(kind.type.rawValue)
      while kinds.count <= number { kinds.append(nil) }
      kinds[number] = kind
    }
    return kinds
  }()

  /// Whether all files of a task can be made before the others of the tree exist.
  public func needsNobody(_ task: RestoredTask) -> Bool {
    func needsNobody(_ id: UInt32) -> Bool {
      guard let place = files.place(of: id) else { return false }
      if let known = independent[place] { return known }
      let entry = files.values[place]
      let isIndependent = Self.kind(of: entry.type)?.needsNobody(entry, self) ?? false
      independent[place] = isIndependent
      return isIndependent
    }
    guard needsNobody(task.memory.exeFileId), let fs = task.fs, needsNobody(fs.cwdId), needsNobody(fs.rootId) else { return false }
    return task.descriptors.allSatisfy { needsNobody($0.id) }
  }

  /// A descriptor, in this process, of the description with this ID; made if it is asked for the first time.
  public func descriptor(_ id: UInt32, for user: @autoclosure () -> String) throws(Failure) -> Int32 {
    let place = try place(of: id, for: user())
    if opened[place] >= 0 { return opened[place] }
    var entry = files.values[place]
    if !tracerNumbers.isEmpty { entry.mapOwner { tracerNumbers[$0] ?? 0 } }
    let fd = try kind(of: entry).open(entry, self).release()
    opened[place] = fd
    return fd
  }

  /// The same for a mapping, which says itself for what its file is open: one entry may stand for several such in images of other tools.
  func descriptor(behind vma: VmaEntry, for user: @autoclosure () -> String) throws(Failure) -> Int32 {
    let id = UInt32(truncatingIfNeeded: vma.shmid)
    let mode = UInt32(bitPattern: O_ACCMODE)
    var entry = try entry(id, for: user())
    guard let flags = vma.fdflags, let own = entry.reg?.flags, (flags ^ own) & mode != 0, (flags | own) & UInt32(bitPattern: O_PATH) == 0
    else {
      return try descriptor(id, for: user())
    }
    let name = "file \(id), mapped as \(flags & mode)"
    if let fd = kept[name] { return fd }
    entry.reg?.flags = own & ~mode | flags & mode
    let fd = try kind(of: entry).open(entry, self).release()
    kept[name] = fd
    return fd
  }

  /// A descriptor that was kept under a name.
  public func kept(_ name: String) -> Int32? { kept[name] }

  /// Whether what is kept under a name is given out for the first time. Who takes it as a description does not close it.
  func isFirstUse(of name: String) -> Bool { givenOut.insert(name).inserted }

  public func keep(_ descriptor: consuming Descriptor, as name: String) { kept[name] = descriptor.release() }
}

/// The entries of `files.img` by ID. They are large, and stay where they were read: pages that are touched for the first time are what
/// a short restore spends its time on.
public struct RecordedFiles {
  public private(set) var values: [FileEntry]
  /// Where each ID's entry is, if the IDs are small, as those that writers count out are; -1: nowhere.
  private var list: [Int32] = []
  /// The same, if they are not.
  private var places: [UInt32: Int] = [:]

  init(_ entries: [FileEntry]) throws(Failure) {
    values = entries
    let isDense = entries.allSatisfy { $0.id < 4 * entries.count + 64 }
    if isDense { list = Array(repeating: -1, count: 4 * entries.count + 64) }
    for (place, entry) in entries.enumerated() {
      guard self.place(of: entry.id) == nil else {
        throw Failure("files.img: two entries have the ID \(entry.id)")
      }
      if isDense { list[Int(entry.id)] = Int32(place) } else { places[entry.id] = place }
    }
  }

  /// Where an entry is among the values.
  func place(of id: UInt32) -> Int? {
    if list.isEmpty { return places[id] }
    guard list.indices.contains(Int(id)), list[Int(id)] >= 0 else { return nil }
    return Int(list[Int(id)])
  }

  public internal(set) subscript(id: UInt32) -> FileEntry? {
    get { place(of: id).map { values[$0] } }
    set { if let place = place(of: id), let newValue { values[place] = newValue } }
  }
}

/// How tasks come by their PIDs.
public enum PIDMethod: String, Sendable, CaseIterable {
  /// `set_tid` of clone3(2), since Linux 5.5.
  case clone3
  /// Writes to `/proc/sys/kernel/ns_last_pid`, after which the kernel gives out the next number.
  case nsLastPID = "ns-last-pid"
  /// What the kernel has.
  case automatic = "auto"
}

/// What the user asked of a restore.
public struct RestoreOptions: Sendable {
  public var detach = false
  public var shellJob = false
  public var sibling = false
  /// Stop the tree as SIGSTOP does, before anything of it runs.
  public var leaveStopped = false
  /// Compare the size of files with what was recorded.
  public var validateFiles = true
  /// Their build-id too.
  public var validateBuildIDs = true
  /// Memory that fills whole huge pages gets such, whatever the size of its pages was (``Prefault``).
  public var transparentHugePages = false
  /// Compare images with their checksums.
  public var verify = true
  /// Those of memory too.
  public var verifyMemory = false
  public var pidMethod = PIDMethod.automatic
  /// How often a PID that another process took is tried again.
  public var pidRetries = 16
  /// Restore one level deeper, in a PID namespace made for the tree.
  public var newPIDNamespace = false
  /// Restore without what this user cannot set back.
  public var unprivileged = false
  /// Levels of PIDs outside of the tree's that are left to the kernel, because it lets nobody choose them here.
  public var unnamedLevels = 0
  /// Where `stats-restore` goes; the images' folder if not given.
  public var workDirectory: String?
  /// Where the root's PID is written, from the work directory on.
  public var pidfile: String?

  public init() {}
}

extension FownEntry {
  /// Sets a description's owner and signal again (man 2 fcntl, F_SETOWN_EX, F_SETSIG).
  public func restore(to fd: Int32) throws(Errno) {
    if pid != 0 {
      var owner: (Int32, Int32) = (Int32(pidType), Int32(bitPattern: pid))
      try withUnsafeMutablePointer(to: &owner) { pointer throws(Errno) in
        _ = try syscall(__NR_fcntl, Int(fd), F_SETOWN_EX, Int(bitPattern: pointer))
      }
    }
    if signum != 0 { try syscall(__NR_fcntl, Int(fd), F_SETSIG, Int(signum)) }
  }

  /// The status flags that can be changed after open(2), but for O_ASYNC.
  static var settableFlags: Int32 { O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME }

  /// The same, with the status flags that can be changed after open(2) (F_SETFL). The owner comes first. `made`: the flags that
  /// the description was just made with, where these are known.
  func restore(to fd: Int32, flags: UInt32, made: Int32? = nil) throws(Errno) {
    try restore(to: fd)
    // O_ASYNC is set by the task: a signal names the number that it was set through (DescriptorTable).
    let settable = Int(Self.settableFlags)
    if let made, (Int(made) ^ Int(flags)) & settable == 0 { return }
    let now = try syscall(__NR_fcntl, Int(fd), Int(F_GETFL))
    let wanted = now & ~settable | Int(flags) & settable
    if wanted != now { try syscall(__NR_fcntl, Int(fd), Int(F_SETFL), wanted) }
  }
}

/// Descriptors that every stub inherits, at numbers above all that the tree uses.
public struct ServiceDescriptors: Sendable {
  /// A pidfd of the tracer, to get files from.
  public var tracer: Int32 = -1
  /// The images folder.
  public var images: Int32 = -1
  /// The executor area's memory.
  public var area: Int32 = -1
  /// `ns_last_pid`, where PIDs are made with it.
  public var lastPID: Int32 = -1
  /// The lowest of them.
  public var first: Int32 = 0

  public init() {}
}
