import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// Files that are open or mapped but have lost their name. Without any name left the content is kept in the images (a
/// ghost file); with another hard link, a temporary link beside the old name keeps it reachable.
enum DeletedFile {
  private static let suffix = Array(" (deleted)".utf8)
  /// How the temporary names of files begin that have lost theirs.
  private static let temporaryName = Array("link_remap.".utf8)

  /// The path that the file had; `nil` if it is still there.
  static func nameIfDeleted(_ file: DumpedFile, _ dump: DumpContext) throws(Failure) -> [UInt8]? {
    guard file.link.count > suffix.count, file.link.suffix(suffix.count).elementsEqual(suffix) else {
      return nil
    }
    // A name may end like that by itself.
    let path = Array((dump.namespaces?.place(of: file)?.prefix ?? "").utf8) + file.link
    if let st = try? fstat(of: path), st.st_ino == file.stat.st_ino,
      st.st_dev == file.stat.st_dev
    {
      return nil
    }
    return Array(file.link.dropLast(suffix.count))
  }

  static func record(_ file: DumpedFile, name: [UInt8], id: UInt32, _ dump: DumpContext) throws(Failure) {
    var remap = RemapFilePathEntry()
    remap.origId = id
    if file.stat.st_nlink > 0 {
      remap.remapType = .linked
      remap.remapId = try link(file, beside: name, dump)
    } else {
      guard [S_IFREG, S_IFDIR, S_IFIFO].contains(file.format) else {
        throw Failure("\(file.description): a deleted special file cannot be kept")
      }
      remap.remapType = .ghost
      remap.remapId = try ghost(file, dump)
    }
    dump.remaps.append(remap)
  }

  /// Gives a file that has another name somewhere a second one where the first was; its ID in files.img.
  private static func link(_ file: DumpedFile, beside name: [UInt8], _ dump: DumpContext) throws(Failure)
    -> UInt32
  {
    let id = dump.files.nextNumber()
    let directory = name[..<(name.lastIndex(of: UInt8(ascii: "/")) ?? 0)]
    let path = Array(directory) + Array("/".utf8) + temporaryName + Array("\(id)".utf8)
    let place = dump.namespaces?.place(of: file)
    try about("\(file.description): linking it as \(path.text)") { () throws(Failure) in
      let new = place?.path(path) ?? RecordedPath(path: path)
      let parent = try new.openParent()
      try about("linkat") { () throws(Errno) in
        try linkat("/proc/\(file.pid)/\(file.procPath)", parent.rawValue, new.name)
      }
      dump.links.add(new.name, in: parent)
    }
    var reg = RegFileEntry()
    reg.id = id
    reg.name = path
    reg.mode = file.stat.st_mode
    if let place, place.namespace != nil { reg.mntId = place.mount.id }
    var entry = FileEntry()
    entry.type = .reg
    entry.id = id
    entry.reg = reg
    dump.files.append(entry)
    return id
  }

  /// Copies a file without a name into an image, once for each inode; the image's number.
  private static func ghost(_ file: DumpedFile, _ dump: DumpContext) throws(Failure) -> UInt32 {
    let key = FileTable.Key(
      device: UInt64(file.stat.st_dev), inode: UInt64(file.stat.st_ino), flags: 0, position: 0, link: [])
    if let known = dump.ghosts[key] { return known }
    let st = file.stat
    let kept = UInt64(st.st_blocks) * 512
    guard kept <= dump.options.ghostLimit || file.format == S_IFDIR else {
      throw Failure(
        "\(file.description): a deleted file of \(kept) bytes is larger than the limit of \(dump.options.ghostLimit)",
        advice: "Raise it with --ghost-limit \(kept).")
    }
    let number = dump.number("ghost")
    dump.ghosts[key] = number
    var entry = GhostFileEntry()
    entry.uid = st.st_uid
    entry.gid = st.st_gid
    entry.mode = st.st_mode
    entry.dev = UInt32(truncatingIfNeeded: st.st_dev)
    entry.ino = UInt64(st.st_ino)
    entry.atim = timeval(st.st_atim)
    entry.mtim = timeval(st.st_mtim)
    try about("\(file.description): keeping the deleted file") { () throws(Failure) in
      var image = try asFailure { () throws(ImageError) in
        try ImageWriter(.ghostFile(number), in: dump.directory)
      }
      guard file.format == S_IFREG else {
        try image.write(entry)
        try image.end()
        return
      }
      entry.chunks = true
      entry.size = UInt64(st.st_size)
      try image.write(entry)
      let source = try about("opening it") { () throws(Errno) in
        try Descriptor.open("/proc/\(file.pid)/\(file.procPath)", O_RDONLY)
      }
      try copyChunks(source.rawValue, size: Int(st.st_size), &image)
      try image.end()
    }
    return number
  }

  private static func copyChunks(_ source: Int32, size: Int, _ image: inout ImageWriter) throws(Failure) {
    var offset = 0
    let room = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 18, alignment: 4096)
    defer { room.deallocate() }
    while offset < size {
      let next = try about("finding its data") { () throws(Errno) in try nextData(source, from: offset) }
      guard let data = next else { return }
      offset = data.lowerBound
      while offset < data.upperBound {
        let n = try about("reading its content") { () throws(Errno) in
          try syscall(
            __NR_pread64, Int(source), Int(bitPattern: room.baseAddress),
            min(room.count, data.upperBound - offset), offset)
        }
        if n == 0 { return }
        var chunk = GhostChunkEntry()
        chunk.off = UInt64(offset)
        chunk.len = UInt64(n)
        try image.write(chunk)
        try image.write(raw: [UInt8](room[..<n]))
        offset += n
      }
    }
  }

  private static func timeval(_ t: timespec) -> Timeval {
    var v = Timeval()
    v.tvSec = UInt64(bitPattern: Int64(t.tv_sec))
    v.tvUsec = UInt64(t.tv_nsec / 1000)
    return v
  }

  /// Opens a file that has no name of its own any more.
  static func open(
    _ reg: RegFileEntry, _ remap: RemapFilePathEntry, _ flags: Int32, _ restore: RestoreContext
  )
    throws(Failure) -> Descriptor
  {
    switch remap.remapType ?? .linked {
    case .linked:
      let path = try linked(remap, reg, restore)
      let wanted = try restore.path(of: reg)
      return try about("by its other name") { () throws(Failure) in
        // The very file, whatever has that name a moment later.
        let file = try path.open(O_PATH)
        return try reopen("/proc/self/fd/\(file.rawValue)", as: wanted, flags)
      }
    case .ghost:
      let master = try ghost(remap, reg, restore)
      return try about("reopening it") { () throws(Failure) in try RecordedPath(directory: master, path: []).open(flags) }
    default: throw unknown(remap)
    }
  }

  /// Checks how a file without a name is to be had again, before anything is made.
  static func check(_ id: UInt32, _ restore: RestoreContext) throws(Failure) {
    guard let remap = restore.remaps[id] else { return }
    switch remap.remapType ?? .linked {
    case .linked:
      guard let other = restore.files[remap.remapId], other.reg != nil else {
        throw Failure("remap-fpath.img: file \(id): its other name, file \(remap.remapId), is not in files.img")
      }
    case .ghost: try checkGhost(remap.remapId, restore)
    default: throw unknown(remap)
    }
  }

  /// Whether the image of a deleted file is whole, and its content is where it can be.
  private static func checkGhost(_ number: UInt32, _ restore: RestoreContext) throws(Failure) {
    var image = try asFailure { () throws(ImageError) in try ImageReader(.ghostFile(number), in: restore.directory) }
    guard let entry = try image.read(GhostFileEntry.self) else { throw Failure("\(image.file.fileName) is empty") }
    guard [S_IFREG, S_IFDIR, S_IFIFO].contains(entry.mode & S_IFMT) else {
      throw Failure("\(image.file.fileName): a file of the mode 0\(String(entry.mode, radix: 8)) cannot be made again")
    }
    guard entry.size ?? 0 <= UInt64(Int.max) else { throw Failure("\(image.file.fileName): it is \(entry.size ?? 0) bytes long") }
    if !mayGive(entry, restore) {
      restore.concessions.add(
        "its owner \(entry.uid):\(entry.gid): needs CAP_CHOWN", of: "the deleted file of \(image.file.fileName)")
    }
    while entry.chunks == true, let chunk = try image.read(GhostChunkEntry.self) {
      let length = try length(of: chunk, image.file)
      _ = try asFailure { () throws(ImageError) in try image.skip(length) }
    }
  }

  /// Whether the file can be made its owner's. Groups are not looked into: a file may be given to one of this user's.
  private static func mayGive(_ entry: GhostFileEntry, _ restore: RestoreContext) -> Bool {
    let may = restore.privileges
    return !may.areLimited || (entry.uid, entry.gid) == (geteuid(), getegid())
      || may.canSetIDs && may.capabilities.contains(.chown)
  }

  private static func length(of chunk: GhostChunkEntry, _ file: ImageFile) throws(Failure) -> Int {
    guard chunk.len <= UInt64(Int.max), chunk.off <= UInt64(Int.max) - chunk.len else {
      throw Failure("\(file.fileName): a chunk at \(chunk.off) of \(chunk.len) bytes is too far")
    }
    return Int(chunk.len)
  }

  private static func unknown(_ remap: RemapFilePathEntry) -> Failure {
    Failure(
      "remap-fpath.img: file \(remap.origId) is one in /proc of a process that had ended, which cannot be opened again (procfs)",
      advice: "Dump the tree again when it has closed that file.")
  }

  /// What opens a file without a name of its own.
  static func path(_ reg: RegFileEntry, _ remap: RemapFilePathEntry, _ restore: RestoreContext) throws(Failure) -> RecordedPath {
    if remap.remapType == .ghost { return RecordedPath(directory: try ghost(remap, reg, restore), path: []) }
    return try linked(remap, reg, restore)
  }

  /// The temporary name of a file; it goes when the tree is complete. Any other name is none that a dump has given.
  private static func linked(_ remap: RemapFilePathEntry, _ reg: RegFileEntry, _ restore: RestoreContext) throws(Failure)
    -> RecordedPath
  {
    let linked = try RegularFile.part(of: try restore.entry(remap.remapId, for: "file \(reg.name.text)"))
    let path = try restore.path(of: linked)
    if path.name.starts(with: temporaryName), restore.isFirstUse(of: "link \(remap.remapId)") {
      restore.links.add(path.name, in: try path.openParent())
    }
    return path
  }

  /// A descriptor of a ghost file; made if it is asked for the first time.
  private static func ghost(_ remap: RemapFilePathEntry, _ reg: RegFileEntry, _ restore: RestoreContext) throws(Failure)
    -> Int32
  {
    let key = "ghost \(remap.remapId)"
    if restore.kept(key) == nil {
      restore.keep(try makeGhost(remap.remapId, try restore.path(of: reg), restore), as: key)
    }
    return restore.kept(key) ?? -1
  }

  /// Opens `path`, one of this process's descriptors, under another name, which it has only while it is opened, so that the kernel shows
  /// that name.
  private static func reopen(_ path: String, as wanted: RecordedPath, _ flags: Int32) throws(Failure) -> Descriptor {
    try wanted.withParent { parent throws(Failure) in
      try about("under its old name") { () throws(Errno) in
        do throws(Errno) {
          try linkat(path, parent, wanted.name)
        } catch {
          guard error == .fileExists else { throw error }
          return try Descriptor.open(path, flags)
        }
        defer { FileName.unlink(at: parent, wanted.name) }
        return try Descriptor.open(at: parent, wanted.name, flags, resolving: [.noLinks, .beneath])
      }
    }
  }

  private static func linkat(_ from: String, _ directory: Int32, _ name: [UInt8]) throws(Errno) {
    let result = from.withCString { from in
      (name + [0]).withUnsafeBytes {
        cl_syscall(
          Int(__NR_linkat), Int(AT_FDCWD), Int(bitPattern: from), Int(directory), Int(bitPattern: $0.baseAddress),
          0x400 /* AT_SYMLINK_FOLLOW */, 0)
      }
    }
    if result < 0 { throw Errno(rawValue: Int32(-result)) }
  }

  /// Makes the file again, fills it, gives it its old name for the moment of an open, and takes the name away.
  private static func makeGhost(_ number: UInt32, _ path: RecordedPath, _ restore: RestoreContext) throws(Failure)
    -> Descriptor
  {
    try path.withParent { directory throws(Failure) in try makeGhost(number, path, in: directory, restore) }
  }

  /// What is returned opens the file, but is not open for writing: nobody could run the file then (fs/exec.c: exe_file_deny_write_access).
  private static func makeGhost(_ number: UInt32, _ path: RecordedPath, in directory: Int32, _ restore: RestoreContext)
    throws(Failure) -> Descriptor
  {
    var image = try asFailure { () throws(ImageError) in
      try ImageReader(.ghostFile(number), in: restore.directory)
    }
    guard let entry = try image.read(GhostFileEntry.self) else { throw Failure("\(image.file.fileName) is empty") }
    let name = path.name
    if entry.mode & S_IFMT == S_IFDIR {
      return try about("making the deleted directory") { () throws(Errno) in
        guard FileName.with(name, { mkdirat(directory, $0, entry.mode & 0o7777) }) == 0 else { throw Errno(rawValue: errno) }
        defer { FileName.unlink(at: directory, name, AT_REMOVEDIR) }
        return try Descriptor.open(at: directory, name, O_RDONLY | O_DIRECTORY, resolving: [.noLinks, .beneath])
      }
    }
    if entry.mode & S_IFMT == S_IFIFO {
      return try about("making the deleted named pipe") { () throws(Errno) in
        guard FileName.with(name, { mkfifoat(directory, $0, entry.mode & 0o7777) }) == 0 else { throw Errno(rawValue: errno) }
        defer { FileName.unlink(at: directory, name) }
        _ = FileName.with(name) { fchownat(directory, $0, entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) }
        // Not one of its ends: who opens it decides what its other end sees.
        return try Descriptor.open(at: directory, name, O_PATH, resolving: [.noLinks, .beneath])
      }
    }
    let file = try about("making the deleted file in its directory") { () throws(Errno) in
      try Descriptor.open(at: directory, ".", O_TMPFILE | O_RDWR, mode: 0o600)
    }
    try fill(file.rawValue, entry, &image)
    try about("giving the deleted file its owner") { () throws(Errno) in
      if mayGive(entry, restore) { try syscall(__NR_fchown, Int(file.rawValue), Int(entry.uid), Int(entry.gid)) }
      try syscall(__NR_fchmod, Int(file.rawValue), Int(entry.mode & 0o7777))
      if let atime = entry.atim, let mtime = entry.mtim {
        var times = (
          Int64(bitPattern: atime.tvSec), Int64(bitPattern: atime.tvUsec &* 1000), Int64(bitPattern: mtime.tvSec),
          Int64(bitPattern: mtime.tvUsec &* 1000)
        )
        try withUnsafeMutablePointer(to: &times) { pointer throws(Errno) in
          _ = try syscall(__NR_utimensat, Int(file.rawValue), 0, Int(bitPattern: pointer), 0)
        }
      }
    }
    return try reopen("/proc/self/fd/\(file.rawValue)", as: path, O_PATH)
  }

  private static func fill(
    _ file: Int32, _ entry: GhostFileEntry, _ image: inout ImageReader
  )
    throws(Failure)
  {
    // In parts: an image may claim any length, and have it as a hole.
    func copy(_ count: Int, at offset: Int) throws(Failure) {
      for start in stride(from: 0, to: count, by: 1 << 20) {
        let bytes = try image.bytes(min(1 << 20, count - start))
        let n = bytes.withUnsafeBytes {
          cl_syscall(Int(__NR_pwrite64), Int(file), Int(bitPattern: $0.baseAddress), $0.count, offset + start, 0, 0)
        }
        if n < 0 { throw Failure("writing the deleted file", Errno(rawValue: Int32(-n))) }
      }
    }
    if entry.chunks == true {
      while let chunk = try image.read(GhostChunkEntry.self) {
        try copy(try length(of: chunk, image.file), at: Int(chunk.off))
      }
    } else {
      try copy(image.size - image.offset, at: 0)
    }
    if let size = entry.size {
      try about("setting the deleted file's size") { () throws(Errno) in
        _ = try syscall(__NR_ftruncate, Int(file), Int(truncatingIfNeeded: size))
      }
    }
  }
}
