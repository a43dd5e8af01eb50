import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// Pipes: their ends, what is in them, their size, and packet mode (man 7 pipe).
public enum Pipe: FileKind {
  public static let type = FdTypes.pipe

  public static func matches(_ file: DumpedFile) -> Bool { file.link.starts(with: "pipe:[".utf8) }

  public static func record(_ file: DumpedFile, id: UInt32, _ dump: DumpContext) throws(Failure) -> FileEntry {
    var pipe = PipeEntry()
    pipe.id = id
    pipe.pipeId = UInt32(truncatingIfNeeded: file.stat.st_ino)
    pipe.flags = file.info.flags & descriptionFlags
    try about(file.description) { () throws(Failure) in
      pipe.fown = try file.owner()
      guard dump.pipes.insert(pipe.pipeId).inserted else { return }
      if let size = file.isEmptyPipe {
        var entry = PipeDataEntry()
        entry.pipeId = pipe.pipeId
        entry.size = size
        dump.pipeData.append((entry, []))
      } else {
        let end = try file.duplicate()
        dump.pipeData.append(try content(of: end.rawValue, pipeID: pipe.pipeId))
      }
    }
    var entry = FileEntry()
    entry.type = type
    entry.id = id
    entry.pipe = pipe
    return entry
  }

  /// st_dev of all unnamed pipes: there is one mount of their file system, the kernel's own (fs/pipe.c).
  static let device: UInt64? = {
    do throws(Errno) {
      let ends = try PipeEnds(flags: 0)
      return UInt64(try fstat(at: ends.read.rawValue).st_dev)
    } catch {
      return nil
    }
  }()

  /// The size in bytes of a pipe with nothing in it; `nil` if there is something.
  static func isEmpty(_ end: Int32) throws(Errno) -> UInt32? {
    try bytesWaiting(in: end) == 0 ? UInt32(try syscall(__NR_fcntl, Int(end), F_GETPIPE_SZ)) : nil
  }

  /// A pipe with nothing in it that an iterator has seen, and of which it has told everything; `nil` for any other file.
  static func empty(_ open: OpenFile, of task: DumpedTask) -> DumpedDescription? {
    guard open.fileMode & S_IFMT == S_IFIFO, open.device == device, !open.hasOwner, open.flags & UInt32(O_PATH) == 0,
      let size = open.emptyPipeSize
    else { return nil }
    var stat = stat()
    stat.st_dev = dev_t(open.device)
    stat.st_ino = UInt(open.inodeNumber)
    stat.st_mode = open.fileMode
    var file = DumpedFile(
      pid: task.pid, number: open.number, procPath: "fd/\(open.number)", link: link(open.inodeNumber), stat: stat)
    file.info.flags = open.flags & descriptionFlags
    file.fown = FownEntry()
    file.isEmptyPipe = size
    file.address = open.address
    return DumpedDescription(file, Self.self)
  }

  /// What `/proc` shows of an end.
  static func link(_ inode: UInt64) -> [UInt8] { Array("pipe:[\(inode)]".utf8) }

  private static func bytesWaiting(in end: Int32) throws(Errno) -> Int {
    var bytes: Int32 = 0
    try withUnsafeMutablePointer(to: &bytes) { pointer throws(Errno) in
      _ = try syscall(__NR_ioctl, Int(end), 0x541b /* FIONREAD */, Int(bitPattern: pointer))
    }
    return Int(bytes)
  }

  /// Copies what is in a pipe without taking it out (man 2 tee).
  static func content(of end: Int32, pipeID: UInt32) throws(Failure) -> (entry: PipeDataEntry, bytes: [UInt8]) {
    var entry = PipeDataEntry()
    entry.pipeId = pipeID
    do throws(Errno) {
      let size = try syscall(__NR_fcntl, Int(end), F_GETPIPE_SZ)
      entry.size = UInt32(size)
      // Only a read end can be the source of tee; every pipe can be opened for reading through /proc.
      let source = try Descriptor.open("/proc/self/fd/\(end)", O_RDONLY | O_NONBLOCK)
      let ends = try PipeEnds(flags: O_NONBLOCK)
      // Packets are told apart by the buffers that they fill: the copy has as many, or as many as it may have.
      var (waiting, copied) = (0, 0)
      do {
        try syscall(__NR_fcntl, Int(ends.write.rawValue), F_SETPIPE_SZ, size)
      } catch .notPermitted {
        waiting = try bytesWaiting(in: end)
        try syscall(__NR_fcntl, Int(ends.write.rawValue), F_SETPIPE_SZ, Int(MachineLimits.pipeSize ?? 0))
      }
      do {
        copied = try syscall(
          __NR_tee, Int(source.rawValue), Int(ends.write.rawValue), Int(Int32.max), 2 /* SPLICE_F_NONBLOCK */)
      } catch .resourceTemporarilyUnavailable {
        return (entry, [])
      }
      if copied < waiting { throw Errno.notPermitted }
      var bytes: [UInt8] = []
      let room = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 16)
      defer { room.deallocate() }
      while true {
        do {
          let n = try syscall(__NR_read, Int(ends.read.rawValue), Int(bitPattern: room), size)
          if n == 0 { break }
          bytes += UnsafeRawBufferPointer(start: room, count: n)
          entry.packets.append(UInt32(n))
        } catch .resourceTemporarilyUnavailable {
          break
        }
      }
      // In a stream the whole content is read at once; only packets come in several parts.
      if entry.packets.count < 2 { entry.packets = [] }
      entry.bytes = UInt32(bytes.count)
      return (entry, bytes)
    } catch {
      throw Failure(
        "copying what is in the pipe", error,
        advice: error == .notPermitted
          ? "It has more than \(MachineLimits.pipeSizeFile) allows: raise that, or run with CAP_SYS_RESOURCE." : "")
    }
  }

  public static func check(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) {
    let pipe = try entry.part(entry.pipe)
    MachineLimits.concede(&restore.pipeData[pipe.pipeId], of: "pipes-data.img: pipe \(pipe.pipeId)", restore)
    restore.pipeEnds[pipe.pipeId, default: Ends()].add(pipe)
  }

  /// The descriptions of a pipe.
  struct Ends {
    private(set) var read: End?
    private(set) var write: End?
    /// They are what pipe2 makes.
    private(set) var arePlain = true

    struct End {
      var id: UInt32
      var flags: Int32
    }

    mutating func add(_ pipe: PipeEntry) {
      let end = End(id: pipe.id, flags: Int32(bitPattern: pipe.flags))
      // Owners are numbers of the tracer's. An end that was opened by a path has O_LARGEFILE.
      if pipe.fown.pid != 0 || pipe.fown.signum != 0 || pipe.flags & largeFile != 0 { arePlain = false }
      switch end.flags & O_ACCMODE {
      case O_RDONLY where read == nil: read = end
      case O_WRONLY where write == nil: write = end
      default: arePlain = false
      }
    }
  }

  /// Empty pipes whose ends are neighbours in one table, as most are, and nobody else's: one call in the task, where the tracer would
  /// need one and the task four.
  public static func make(
    _ entries: ArraySlice<FdinfoEntry>, in task: RestoredTask, _ restore: RestoreContext, _ sequence: inout ProgramSequence
  ) -> Int {
    guard let first = entries.first, let second = entries.dropFirst().first, second.fd == first.fd + 1,
      let entry = restore.files[first.id], entry.type == type, let id = entry.pipe?.pipeId, let ends = restore.pipeEnds[id], ends.arePlain,
      let read = ends.read, let write = ends.write, read.id == first.id, write.id == second.id,
      restore.hasOneUser(read.id), restore.hasOneUser(write.id)
    else { return 0 }
    let content = restore.pipeData[id]
    guard content?.1.isEmpty ?? true else { return 0 }

    let closesOnExec = first.flags & second.flags & 1
    let common = read.flags & write.flags & O_NONBLOCK
    sequence.makeRoom(calls: 6, bytes: 8)
    let numbers = sequence.current.reserve(8)
    sequence.current.call(
      __NR_pipe2, Argument(numbers.address), Argument(common | (closesOnExec != 0 ? O_CLOEXEC : 0)),
      for: "pipe2 for descriptor", UInt64(first.fd))
    for (entry, end) in [(first, read), (second, write)] {
      if entry.flags & 1 != closesOnExec {
        sequence.current.call(
          __NR_fcntl, Argument(entry.fd), Argument(F_SETFD), 1, for: "closing on exec descriptor", UInt64(entry.fd))
      }
      let flags = end.flags & FownEntry.settableFlags
      if flags != common {
        sequence.current.call(
          __NR_fcntl, Argument(entry.fd), Argument(F_SETFL), Argument(flags), for: "setting the flags of descriptor",
          UInt64(entry.fd))
      }
    }
    if let size = content?.0.size, size != 0, size != restore.newPipeSize {
      sequence.current.call(
        __NR_fcntl, Argument(second.fd), Argument(F_SETPIPE_SZ), Argument(size), for: "setting the size of the pipe of descriptor",
        UInt64(second.fd))
    }
    return 2
  }

  /// Bytes of a new pipe, if all that a task makes have as many: without privileges it depends on how many its user has
  /// (fs/pipe.c: alloc_pipe_info).
  static func newSize(_ privileges: Privileges) -> UInt32? {
    guard !privileges.machine.isDisjoint(with: [.sysResource, .sysAdmin]) else { return nil }
    do throws(Errno) {
      let ends = try PipeEnds(flags: 0)
      return try isEmpty(ends.read.rawValue)
    } catch {
      return nil
    }
  }

  public static func needsNobody(_ entry: FileEntry, _ restore: RestoreContext) -> Bool { entry.pipe?.fown.pid == 0 }

  public static func open(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    guard let pipe = entry.pipe else {
      throw Failure("files.img: file \(entry.id) is a pipe without its part")
    }
    return try about("pipe \(pipe.pipeId)") { () throws(Errno) -> Descriptor in
      var made = if let known = restore.pipes[pipe.pipeId] { known } else { try make(pipe, restore) }
      defer { restore.pipes[pipe.pipeId] = made }
      let writes = pipe.flags & UInt32(O_ACCMODE) != UInt32(O_RDONLY)
      let end = writes ? made.write : made.read
      // The descriptions of pipe2 are for whoever had such: those that come by a path have O_LARGEFILE. Who takes one as a
      // description does not close it.
      if pipe.flags & largeFile == 0, !(writes ? made.hasGivenWrite : made.hasGivenRead) {
        if writes { made.hasGivenWrite = true } else { made.hasGivenRead = true }
        try pipe.fown.restore(to: end, flags: pipe.flags, made: made.flags)
        return Descriptor(end)
      }
      // A description of its own, with its own flags.
      let flags = Int32(bitPattern: pipe.flags) & (O_ACCMODE | O_NONBLOCK)
      let descriptor = try Descriptor.open("/proc/self/fd/\(end)", flags)
      try pipe.fown.restore(to: descriptor.rawValue, flags: pipe.flags)
      return descriptor
    }
  }

  /// Both ends of a pipe, and who has been given them.
  struct Made {
    var read: Int32
    var write: Int32
    /// What both were made with.
    var flags: Int32?
    var hasGivenRead = false
    var hasGivenWrite = false
  }

  private static func make(_ pipe: PipeEntry, _ restore: RestoreContext) throws(Errno) -> Made {
    let content = restore.pipeData[pipe.pipeId]
    // Whatever is written there must not block; an empty one can have the flags of the end that is asked for.
    let isEmpty = content.map { $0.1.isEmpty } ?? true
    let flags = isEmpty ? Int32(bitPattern: pipe.flags) & O_NONBLOCK : O_NONBLOCK
    let ends = try PipeEnds(flags: flags)
    try fill(ends.write.rawValue, content)
    let (read, write) = ends.release()
    return Made(read: read, write: write, flags: isEmpty ? flags : nil)
  }

  /// O_LARGEFILE as 64-bit kernels set it by themselves (fs/open.c: build_open_how, force_o_largefile).
  private static let largeFile: UInt32 = 0o100000

  /// Gives a pipe its size and content; leaves it in packet mode if packets were put in.
  static func fill(_ writeEnd: Int32, _ content: (PipeDataEntry, [UInt8])?) throws(Errno) {
    guard let (data, bytes) = content else { return }
    // To set what is there already would make room for everything anew.
    if let size = data.size, size != 0, try syscall(__NR_fcntl, Int(writeEnd), F_GETPIPE_SZ) != Int(size) {
      try syscall(__NR_fcntl, Int(writeEnd), F_SETPIPE_SZ, Int(size))
    }
    if !data.packets.isEmpty {
      try syscall(__NR_fcntl, Int(writeEnd), Int(F_SETFL), Int(O_NONBLOCK | O_DIRECT))
    }
    var offset = 0
    for length in data.packets.isEmpty ? [data.bytes] : data.packets where length != 0 {
      var written = 0
      while written < Int(length), offset + written < bytes.count {
        let n = bytes.withUnsafeBytes {
          cl_syscall(
            Int(__NR_write), Int(writeEnd), Int(bitPattern: $0.baseAddress) + offset + written,
            min(Int(length) - written, bytes.count - offset - written), 0, 0, 0)
        }
        if n < 0 { throw Errno(rawValue: Int32(-n)) }
        written += n
      }
      offset += written
    }
  }
}

/// Both ends of a new pipe, close-on-exec (man 2 pipe2).
struct PipeEnds: ~Copyable {
  let read: Descriptor
  let write: Descriptor

  init(flags: Int32) throws(Errno) {
    var ends: (Int32, Int32) = (-1, -1)
    try withUnsafeMutablePointer(to: &ends) { pointer throws(Errno) in
      _ = try syscall(__NR_pipe2, Int(bitPattern: pointer), Int(flags | O_CLOEXEC))
    }
    read = Descriptor(ends.0)
    write = Descriptor(ends.1)
  }

  /// The bare numbers, for which the caller is responsible from now on.
  consuming func release() -> (Int32, Int32) { (read.release(), write.release()) }
}

extension DumpedFile {
  /// A duplicate of the description in this process (man 2 pidfd_getfd).
  public func duplicate() throws(Failure) -> Descriptor {
    try about("duplicating it", advice: "This needs CAP_SYS_PTRACE; run as root.") {
      () throws(Errno) -> Descriptor in
      let pidfd = try pidfdOpen(pid)
      return try pidfdGetfd(pidfd.rawValue, number)
    }
  }
}
