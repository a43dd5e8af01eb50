import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// Named pipes (man 7 fifo). A regular file's entry says by which path and how each end was opened; what is in the pipe
/// is kept like an unnamed pipe's.
public enum Fifo: FileKind {
  public static let type = FdTypes.fifo

  public static func matches(_ file: DumpedFile) -> Bool {
    file.format == S_IFIFO && !file.isAnonymous && file.info.flags & UInt32(O_PATH) == 0
  }

  public static func objection(_ file: DumpedFile, _ options: DumpOptions) -> String? {
    RegularFile.objection(file, options)
  }

  public static func record(_ file: DumpedFile, id: UInt32, _ dump: DumpContext) throws(Failure) -> FileEntry {
    var fifo = FifoEntry()
    fifo.id = id
    let key = FileTable.Key(
      device: UInt64(file.stat.st_dev), inode: UInt64(file.stat.st_ino), flags: 0, position: 0, link: [])
    let known = dump.fifos[key]
    fifo.pipeId = known ?? dump.number("fifo")
    let path = dump.files.nextNumber()
    dump.files.append(try RegularFile.record(file, id: path, dump))
    fifo.regfId = path
    if known == nil {
      dump.fifos[key] = fifo.pipeId
      dump.fifoData.append(
        try about(file.description) { () throws(Failure) in
          let end = try file.duplicate()
          return try Pipe.content(of: end.rawValue, pipeID: fifo.pipeId)
        })
    }
    var entry = FileEntry(type, id)
    entry.fifo = fifo
    return entry
  }

  public static func check(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) {
    let (fifo, path) = try parts(of: entry, restore)
    let name = try RegularFile.part(of: path).name.text
    do throws(Failure) {
      try RegularFile.check(path, restore)
    } catch {
      throw error.of("named pipe \(fifo.pipeId)")
    }
    MachineLimits.concede(&restore.fifoData[fifo.pipeId], of: "fifo-data.img: named pipe \(name)", restore)
  }

  public static func open(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    let (fifo, path) = try parts(of: entry, restore)
    let reg = try RegularFile.part(of: path)
    return try about("named pipe \(reg.name.text)") { () throws(Failure) -> Descriptor in
      let name = try place(path, reg, restore)
      try prepare(fifo, name, restore)
      let flags = Int32(bitPattern: reg.flags) & ~(O_CREAT | O_EXCL | O_TRUNC)
      let descriptor = try about("opening it") { () throws(Failure) in
        // With O_NONBLOCK a reader does not wait for a writer, should there be none.
        try name.open(flags | (isReader(reg) ? O_NONBLOCK : 0))
      }
      try about("setting its size and owner") { () throws(Errno) in
        if restore.kept(key(fifo)) == nil {
          try Pipe.fill(descriptor.rawValue, restore.fifoData[fifo.pipeId])
        }
        try reg.fown.restore(to: descriptor.rawValue, flags: reg.flags)
      }
      return descriptor
    }
  }

  /// Holds both ends of the pipe open and fills it, before any end of the tree is opened.
  ///
  /// Where the tree has nothing but readers that wait for a first writer, that would be the writer, and they would see a
  /// hang-up when it goes (fs/pipe.c: fifo_open, pipe_poll): so it is left out if nothing needs it.
  private static func prepare(_ fifo: FifoEntry, _ name: RecordedPath, _ restore: RestoreContext)
    throws(Failure)
  {
    guard restore.kept(key(fifo)) == nil, try needsBothEnds(fifo.pipeId, restore) else { return }
    let both = try about("opening both ends of it") { () throws(Failure) in try name.open(O_RDWR | O_NONBLOCK) }
    let status = try about("fstat") { () throws(Errno) in try fstat(at: both.rawValue) }
    guard status.st_mode & S_IFMT == S_IFIFO else { throw Failure("it is no named pipe any more") }
    try about("filling it") { () throws(Errno) in
      // A process outside the tree may have kept the pipe, and what is in it.
      var waiting: Int32 = 0
      try withUnsafeMutablePointer(to: &waiting) { pointer throws(Errno) in
        _ = try syscall(__NR_ioctl, Int(both.rawValue), Int(FIONREAD), Int(bitPattern: pointer))
      }
      if waiting == 0 { try Pipe.fill(both.rawValue, restore.fifoData[fifo.pipeId]) }
    }
    restore.keep(both, as: key(fifo))
  }

  /// What opens it now.
  private static func place(_ path: FileEntry, _ reg: RegFileEntry, _ restore: RestoreContext) throws(Failure) -> RecordedPath {
    guard let remap = restore.remaps[path.id] else { return try restore.path(of: reg) }
    return try DeletedFile.path(reg, remap, restore)
  }

  private static func key(_ fifo: FifoEntry) -> String { "fifo \(fifo.pipeId)" }

  private static func needsBothEnds(_ pipeID: UInt32, _ restore: RestoreContext) throws(Failure) -> Bool {
    if let (data, _) = restore.fifoData[pipeID], data.bytes != 0 { return true }
    for entry in restore.files.values where entry.fifo?.pipeId == pipeID {
      let reg = try RegularFile.part(of: try parts(of: entry, restore).path)
      // Who opened it without O_NONBLOCK has seen a writer.
      if !isReader(reg) || reg.flags & UInt32(O_NONBLOCK) == 0 { return true }
    }
    return false
  }

  private static func isReader(_ reg: RegFileEntry) -> Bool {
    reg.flags & UInt32(O_ACCMODE) == UInt32(O_RDONLY)
  }

  private static func parts(of entry: FileEntry, _ restore: RestoreContext) throws(Failure)
    -> (fifo: FifoEntry, path: FileEntry)
  {
    let fifo = try entry.part(entry.fifo)
    // Old images number both alike.
    let path = try restore.entry(fifo.regfId ?? fifo.id, for: "named pipe \(entry.id)")
    return (fifo, path)
  }
}
