import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// Files in memory without a path (man 2 memfd_create): their content, seals and owners, and the descriptions on them.
///
/// A memfd that is mapped is recorded like one that is open: the `shmid` of such a vma_entry (status bit 14) is the ID of a
/// description, ``id(of:_:)``.
public enum MemFD: FileKind {
  public static let type = FdTypes.memfd

  private static let prefix = Array("/memfd:".utf8)
  private static let suffix = Array(" (deleted)".utf8)

  public static func matches(_ file: DumpedFile) -> Bool {
    file.link.starts(with: prefix) && file.link.suffix(suffix.count).elementsEqual(suffix)
      && file.format == S_IFREG && file.stat.st_nlink == 0 && file.info.flags & UInt32(O_PATH) == 0
  }

  public static func objection(_ file: DumpedFile, _ options: DumpOptions) -> String? {
    if file.info.locks > 0 { return "a file lock (file-locks)" }
    return nil
  }

  /// The ID of the description that a mapping holds; `file.info.flags` says whether it may be written through.
  public static func id(of file: DumpedFile, _ dump: DumpContext) throws(Failure) -> UInt32 {
    try dump.files.id(ofNamed: file, kind: MemFD.self, dump)
  }

  public static func record(_ file: DumpedFile, id: UInt32, _ dump: DumpContext) throws(Failure) -> FileEntry {
    var memfd = MemfdFileEntry()
    memfd.id = id
    memfd.flags = file.info.flags & descriptionFlags
    memfd.pos = file.info.position
    try about(file.description) { () throws(Failure) in
      if file.number >= 0 { memfd.fown = try file.owner() }
      memfd.inodeId = try inode(of: file, dump)
    }
    var entry = FileEntry(type, id)
    entry.memfd = memfd
    return entry
  }

  /// Records the file itself, once; its number in `memfd.img`.
  private static func inode(of file: DumpedFile, _ dump: DumpContext) throws(Failure) -> UInt32 {
    let number = UInt32(truncatingIfNeeded: file.stat.st_ino)
    if let known = dump.memfds.first(where: { $0.shmid == number }) { return UInt32(known.inodeId) }
    let path = "/proc/\(file.pid)/\(file.procPath)"
    var entry = MemfdInodeEntry()
    entry.inodeId = UInt64(dump.number("memfd"))
    entry.shmid = number
    entry.name = Array(file.link.dropFirst(prefix.count).dropLast(suffix.count))
    entry.uid = file.stat.st_uid
    entry.gid = file.stat.st_gid
    entry.mode = file.stat.st_mode & 0o7777
    entry.size = UInt64(file.stat.st_size)
    entry.seals = try about("reading its seals") { () throws(Errno) in
      let memory = try Descriptor.open(path, O_RDONLY)
      if let page = HugePages.size(of: memory.rawValue) { entry.hugetlbFlag = HugePages.sizeFlags(page) }
      return UInt32(try syscall(__NR_fcntl, Int(memory.rawValue), F_GET_SEALS))
    }
    if dump.shmems.isNew(inode: UInt64(number)) {
      try SharedMemoryTable.record(id: UInt64(number), path: path, size: entry.size, dump)
    }
    dump.memfds.append(entry)
    return UInt32(entry.inodeId)
  }

  public static func check(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) {
    let memfd = try entry.part(entry.memfd)
    let inode = try inode(memfd.inodeId, restore)
    guard inode.size <= UInt64(Int64.max), memfd.pos <= UInt64(Int64.max), !inode.name.contains(0) else {
      throw Failure("memfd.img: memfd \(memfd.inodeId): its size, its name or a position in it cannot be")
    }
  }

  public static func open(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    let memfd = try entry.part(entry.memfd)
    let master = try descriptor(inodeID: memfd.inodeId, restore)
    let inode = try inode(memfd.inodeId, restore)
    return try about("memfd \(inode.name.text)") { () throws(Errno) -> Descriptor in
      let flags = Int32(bitPattern: memfd.flags) & ~(O_CREAT | O_EXCL | O_TRUNC)
      let descriptor = try Descriptor.open("/proc/self/fd/\(master)", flags)
      if memfd.pos != 0 { try syscall(__NR_lseek, Int(descriptor.rawValue), Int(memfd.pos), 0) }
      try memfd.fown.restore(to: descriptor.rawValue, flags: memfd.flags)
      return descriptor
    }
  }

  /// A descriptor, open for reading and writing, of the file with this number in `memfd.img`; made and filled if
  /// it is asked for the first time. It stays the context's.
  ///
  /// Mappings that may not become writable (no VM_MAYWRITE) need one that is open for reading only.
  static func descriptor(inodeID: UInt32, _ restore: RestoreContext) throws(Failure) -> Int32 {
    let key = key(inodeID)
    if let master = restore.kept(key) { return master }
    let entry = try inode(inodeID, restore)
    try about("memfd \(entry.name.text)") { () throws(Failure) in
      let memory = try about("memfd_create") { () throws(Errno) in try create(entry) }
      let fd = memory.rawValue
      // What is mapped to be filled must have its size before (hugetlb).
      if entry.hugetlbFlag != nil {
        try about("giving it its size") { () throws(Errno) in _ = try syscall(__NR_ftruncate, Int(fd), Int(entry.size)) }
      }
      try RestoredSharedMemory.fill(fd, id: UInt64(entry.shmid), restore)
      try about("giving it its size, owner and seals") { () throws(Errno) in
        // The last page of the content is a whole one.
        try syscall(__NR_ftruncate, Int(fd), Int(entry.size))
        try syscall(__NR_fchown, Int(fd), Int(entry.uid), Int(entry.gid))
        if let mode = entry.mode { try syscall(__NR_fchmod, Int(fd), Int(mode & 0o7777)) }
        try seal(fd, entry.earlySeals)
      }
      restore.keep(memory, as: key)
    }
    return restore.kept(key) ?? -1
  }

  /// What to map where a shared mapping may be written to and its description may not; CRIU 4.2 writes such of memory without a name.
  static func writable(behind vma: VmaEntry, _ restore: RestoreContext) throws(Failure) -> Int32? {
    let access = UInt32(O_ACCMODE)
    guard !vma.isPrivate, (vma.fdflags ?? 0) & access == UInt32(O_RDWR),
      let memfd = restore.files[UInt32(truncatingIfNeeded: vma.shmid)]?.memfd, memfd.flags & access == UInt32(O_RDONLY)
    else { return nil }
    return try descriptor(inodeID: memfd.inodeId, restore)
  }

  public static func finish(_ restore: RestoreContext) throws(Failure) {
    for (inodeID, entry) in restore.memfdInodes {
      guard let master = restore.kept(key(inodeID)) else { continue }
      try about("memfd \(entry.name.text): sealing it") { () throws(Errno) in
        try seal(master, entry.lateSeals)
      }
    }
  }

  private static func key(_ inodeID: UInt32) -> String { "memfd \(inodeID)" }

  private static func inode(_ id: UInt32, _ restore: RestoreContext) throws(Failure) -> MemfdInodeEntry {
    guard let entry = restore.memfdInodes[id] else { throw Failure("memfd \(id) is not in memfd.img") }
    return entry
  }

  private static func create(_ entry: MemfdInodeEntry) throws(Errno) -> Descriptor {
    let allowSealing = 2
    let executable = 0x10
    func create(_ flags: Int) -> Int {
      Array(entry.name + [0]).withUnsafeBytes {
        cl_syscall(
          Int(__NR_memfd_create), Int(bitPattern: $0.baseAddress), flags | 1 /* MFD_CLOEXEC */, 0, 0, 0, 0)
      }
    }
    // Sealed against sealing by being made so; MFD_EXEC, so that vm.memfd_noexec adds no seal: kernel 6.3.
    var sealing = entry.seals == MemfdInodeEntry.sealSeal ? 0 : allowSealing
    if let huge = entry.hugetlbFlag { sealing |= 4 /* MFD_HUGETLB */ | Int(huge) }
    var result = create(sealing | executable)
    if result == -Int(EINVAL) { result = create(sealing) }
    if result < 0 { throw Errno(rawValue: Int32(-result)) }
    return Descriptor(Int32(result))
  }

  private static func seal(_ fd: Int32, _ seals: UInt32) throws(Errno) {
    let missing = seals & ~UInt32(try syscall(__NR_fcntl, Int(fd), F_GET_SEALS))
    if missing != 0 { try syscall(__NR_fcntl, Int(fd), F_ADD_SEALS, Int(missing)) }
  }
}

extension MemfdInodeEntry {
  fileprivate static let sealSeal: UInt32 = 0x01
  private static let sealWrite: UInt32 = 0x08
  private static let sealFutureWrite: UInt32 = 0x10

  /// What must wait until the file is mapped: F_SEAL_FUTURE_WRITE spares writable mappings that are older than itself,
  /// while F_SEAL_WRITE suffers none; and F_SEAL_SEAL comes last.
  fileprivate var lateSeals: UInt32 {
    guard seals & Self.sealFutureWrite != 0, seals & Self.sealWrite == 0 else { return 0 }
    return seals & (Self.sealFutureWrite | Self.sealSeal)
  }

  fileprivate var earlySeals: UInt32 { seals & ~lateSeals }
}
