import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// What the kinds share while a tree is dumped.
public final class DumpContext {
  public var options: DumpOptions
  public let directory: ImageDirectory
  public let files: FileTable
  /// Images that several objects write their part of.
  public var pipeData: [(entry: PipeDataEntry, bytes: [UInt8])] = []
  public var fifoData: [(entry: PipeDataEntry, bytes: [UInt8])] = []
  public var memfds: [MemfdInodeEntry] = []
  public var remaps: [RemapFilePathEntry] = []
  public var terminals: [TtyInfoEntry] = []
  /// Those that this dump has made.
  public let links = TemporaryLinks()
  var ghosts: [FileTable.Key: UInt32] = [:]
  /// Named pipes that have been recorded, and their pipe_id.
  var fifos: [FileTable.Key: UInt32] = [:]
  /// Unnamed pipes whose content has been recorded.
  var pipes: Set<UInt32> = []
  /// Files behind mappings, by what maps shows of them, so that a library is looked at once for the whole tree.
  struct MappedFile: Hashable {
    var major: UInt32
    var minor: UInt32
    var inode: UInt64
    var flags: UInt32
    var name: [UInt8]
    /// The mount namespace of the task.
    var namespace: UInt32
  }
  /// Those of files that have been read, by device and inode: a program may be open many times.
  private var buildIDs: [[UInt64]: [UInt32]] = [:]
  var mappedFiles: [MappedFile: (id: UInt32, isMemfd: Bool)] = [:]
  /// Anonymous shared mappings whose content is to be written, each through the first task that has it.
  public var sharedSegments: [(pid: Int32, mapping: Mapping)] = []
  public var shmems = SharedMemoryTable()
  public var namespaces: NamespaceTable?
  /// The tracer's root directory.
  let root: stat
  /// Devices of the tree's own file systems whose content has been recorded.
  var fileSystems: Set<UInt32> = []
  /// The processes of the tree that have a descriptor table of their own, in the tracer's PID namespace.
  public var processes: [Int32] = []
  /// PIDs and TIDs of the tree in the root's PID namespace, by those in the tracer's, where these are not the same ones.
  public var imageNumbers: [Int32: Int32] = [:]
  /// Image numbers that are given out one after the other by whoever records.
  private var numbers: [String: UInt32] = [:]
  /// Those of pages images, which the tracer gives out.
  private var pagesImages: UInt32 = 0
  /// Milliseconds that may be spent on timers of which it is not clear whether they are armed (``TimerFD``).
  var timerPatience = 80
  public var statistics = DumpStatsEntry()
  public var warnings: [String] = []

  public init(options: DumpOptions, directory: consuming ImageDirectory) throws(Failure) {
    root = try about("looking at the root directory") { () throws(Errno) in try fstat(at: AT_FDCWD, "/") }
    self.options = options
    self.directory = directory
    files = FileTable()
  }

  /// Writes an image that has one entry.
  func write(_ message: some ImageMessage, to file: ImageFile) throws(Failure) {
    var image = try asFailure { () throws(ImageError) in try ImageWriter(file, in: directory) }
    try image.write(message)
    try image.end()
  }
  /// How images call a process or thread that the tracer knows under this number; 0 if it is not seen from the tree.
  public func imageNumber(of number: Int32) -> Int32 { imageNumbers.isEmpty ? number : imageNumbers[number] ?? 0 }

  /// The next free number of a kind of image or object: 1, 2, …
  public func number(_ kind: String) -> UInt32 {
    numbers[kind, default: 0] += 1
    return numbers[kind, default: 0]
  }

  func buildID(of file: DumpedFile) -> [UInt32] {
    let key = [UInt64(file.stat.st_dev), UInt64(file.stat.st_ino)]
    if let known = buildIDs[key] { return known }
    let read = BuildID.read(file)
    // Nothing may have been looked at only because nobody may execute it.
    if !read.isEmpty { buildIDs[key] = read }
    return read
  }

  /// The N of the next pages-N.img.
  public func nextPagesImage() -> UInt32 {
    pagesImages += 1
    return pagesImages
  }
}

/// What the user asked of a dump.
public struct DumpOptions: Sendable {
  public var pid: Int32 = 0
  public var leaveRunning = false
  public var leaveStopped = false
  /// With `leaveRunning`: copies of the tasks write the memory, while the tasks run on.
  public var snapshot = false
  public var shellJob = false
  /// Bytes of the largest deleted file whose content is kept.
  public var ghostLimit: UInt64 = 1 << 20
  /// Seconds that freezing may take.
  public var timeout: Int = 10
  /// Read the memory images again, for their checksums.
  public var checksumMemory = false
  /// Ask the kernel's own lists where there is very much to look at (``KernelIterator``).
  public var usesKernelIterators = true
  /// Where `stats-dump` goes; the images' folder if not given.
  public var workDirectory: String?
  /// The processes of the tree, once they are known.
  public var tree: Set<Int32> = []

  public init() {}
}
