import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// System V shared memory segments (man 2 shmget). Their content is kept like that of other shared memory; tasks attach by
/// themselves.
public enum SystemVSharedMemory {
  private static let isRemoved: UInt32 = 0o1000  // SHM_DEST
  private static let isLocked: UInt32 = 0o2000  // SHM_LOCKED
  private static let hugeTLB = 0o4000  // SHM_HUGETLB

  static func record(_ namespace: UInt32, isFirst: Bool, _ dump: DumpContext) throws(Failure) {
    let segments = try about("listing shared memory") { () throws(Errno) in
      try SystemVObject.identifiers(__NR_shmctl, info: 14 /* SHM_INFO */, stat: 13 /* SHM_STAT */, shmid_ds())
    }
    var image = try asFailure { () throws(ImageError) in try ImageWriter(.ipcShm(namespace), in: dump.directory) }
    for (id, status) in segments {
      var entry = IpcShmEntry()
      entry.desc = IpcDescEntry(status.shm_perm, id: id)
      entry.size = UInt64(status.shm_segsz)
      entry.inPagemaps = true
      let pages = isFirst ? UInt64(id) : 1 << 31 | UInt64(dump.number("nested shm"))
      if !isFirst { entry.pagemapId = UInt32(pages) }
      try about("shared memory segment \(id)") { () throws(Failure) in
        entry.hugetlbFlag = try attached(id, size: status.shm_segsz, readOnly: true) { path throws(Failure) in
          try SharedMemoryTable.record(id: pages, path: path, size: entry.size, dump)
          return try about("opening it") { () throws(Errno) in
            let file = try Descriptor.open(path)
            return HugePages.size(of: file.rawValue).map { HugePages.sizeFlags($0) }
          }
        }
      }
      try image.write(entry)
    }
    try image.end()
  }

  static func read(_ namespace: UInt32, _ restore: RestoreContext) throws(Failure) -> [IpcShmEntry] {
    // Other writers make no image of nothing.
    guard restore.directory.contains(.ipcShm(namespace)) else { return [] }
    var image = try asFailure { () throws(ImageError) in try ImageReader(.ipcShm(namespace), in: restore.directory) }
    var entries: [IpcShmEntry] = []
    while let entry = try image.read(IpcShmEntry.self) {
      guard entry.inPagemaps == true else {
        throw Failure("ipcns-shm-\(namespace).img: segment \(entry.desc.id) has its content in an old form, which is not read")
      }
      guard entry.size > 0, entry.size < 1 << 47 else {
        throw Failure("ipcns-shm-\(namespace).img: segment \(entry.desc.id) has \(entry.size) bytes")
      }
      entries.append(entry)
    }
    return entries
  }

  static func make(_ entry: IpcShmEntry, _ restore: RestoreContext) throws(Failure) {
    try about("shared memory segment \(entry.desc.id)") { () throws(Failure) in
      let huge = entry.hugetlbFlag.map { Int($0) | hugeTLB } ?? 0
      try SystemVObject.make("shm", entry.desc) { () throws(Errno) in
        try syscall(
          __NR_shmget, Int(Int32(bitPattern: entry.desc.key)), Int(entry.size), entry.desc.makingFlags | huge)
      }
      let id = Int(entry.desc.id)
      try attached(id, size: Int(entry.size), readOnly: false) { path throws(Failure) in
        let file = try about("opening it") { () throws(Errno) in try Descriptor.open(path, O_RDWR) }
        try RestoredSharedMemory.fill(file.rawValue, id: UInt64(entry.pagemapId ?? entry.desc.id), restore)
      }
      try about("shmctl") { () throws(Errno) in
        var status = shmid_ds()
        status.shm_perm = entry.desc.settable
        try SystemVObject.control(__NR_shmctl, id, SystemVObject.set, status)
        if entry.desc.mode & isLocked != 0 { _ = try SystemVObject.control(__NR_shmctl, id, 11 /* SHM_LOCK */, 0) }
      }
    }
  }

  /// What was removed already lives by those who are attached to it, who now are.
  static func finish(_ entry: IpcShmEntry) throws(Failure) {
    guard entry.desc.mode & isRemoved != 0 else { return }
    try about("removing shared memory segment \(entry.desc.id)") { () throws(Errno) in
      _ = try SystemVObject.control(__NR_shmctl, Int(entry.desc.id), SystemVObject.remove, 0)
    }
  }

  // MARK: Attached

  /// What of a task's attached segments cannot be attached again: only those of its own IPC namespace can, and only as a whole.
  public static func objections(_ task: DumpedTask) throws(Failure) -> [String] {
    var objections: [String] = []
    var end: UInt64 = 0
    for (i, mapping) in task.mappings.enumerated() where mapping.isSystemV && mapping.start >= end {
      let subject = "\(task.description): memory at 0x\(String(mapping.start, radix: 16))"
      guard let namespace = task.namespace(IPCNamespace.self) else {
        objections.append("\(subject): System V shared memory (ipc)")
        continue
      }
      end = mapping.end
      for next in task.mappings[(i + 1)...] {
        guard next.isSystemV, next.inode == mapping.inode, next.start == end,
          next.offset == end - mapping.start + mapping.offset
        else { break }
        end = next.end
      }
      let path = "map_files/\(String(mapping.start, radix: 16))-\(String(mapping.end, radix: 16))"
      let size = try about("\(subject): the segment's size") { () throws(Errno) in
        try task.directory.folder.status(path).st_size
      }
      if try !isSegment(of: namespace, Int(mapping.inode), "/proc/\(task.pid)/\(path)") {
        objections.append("\(subject): a System V shared memory segment of another IPC namespace (ipc)")
      } else if mapping.offset != 0 || end - mapping.start < pageAlignUp(UInt64(size)) {
        objections.append("\(subject): a part of a System V shared memory segment (ipc)")
      }
    }
    return objections
  }

  /// Whether the file at `path` is a segment of a namespace. Inode numbers are those of all namespaces, generations are not.
  private static func isSegment(of namespace: DumpedNamespace, _ id: Int, _ path: String) throws(Failure) -> Bool {
    let theirs = try about(path) { () throws(Errno) in try fileHandle(path) }
    return try namespace.visit { () throws(Failure) in
      var status = shmid_ds()
      let found = withUnsafeMutablePointer(to: &status) {
        cl_syscall(Int(__NR_shmctl), id, 2 /* IPC_STAT */, Int(bitPattern: $0), 0, 0, 0)
      }
      if found < 0 { return false }
      return try attached(id, size: status.shm_segsz, readOnly: true) { path throws(Failure) in
        try about(path) { () throws(Errno) in try fileHandle(path) == theirs }
      }
    }
  }

  static func check(_ vma: VmaEntry, of task: RestoredTask, _ place: String, _ restore: RestoreContext) throws(Failure) {
    let kind = namespaceKinds.firstIndex { $0 == IPCNamespace.self } ?? 0
    let namespace = restore.namespaces.id(kind, of: task)
    guard namespace != 0 else {
      throw Failure("\(place): a System V shared memory segment that is not in the images (ipc)")
    }
    guard try read(namespace, restore).contains(where: { UInt64($0.desc.id) == vma.shmid }) else {
      throw Failure("\(place): the segment \(vma.shmid) is not in ipcns-shm-\(namespace).img")
    }
  }

  /// Appends the calls that attach a segment with its first mapping, and give each mapping its protection.
  static func attach(_ vma: VmaEntry, _ sequence: inout ProgramSequence) {
    sequence.makeRoom(calls: 2)
    if vma.pgoff == 0 {
      var flags: UInt32 = vma.fdflags.map { $0 & UInt32(O_ACCMODE) == UInt32(O_RDWR) } == false ? 0o10000 : 0  // SHM_RDONLY
      if vma.prot & UInt32(PROT_EXEC) != 0 { flags |= 0o100000 }  // SHM_EXEC
      sequence.current.call(
        __NR_shmat, Argument(vma.shmid), Argument(vma.start), Argument(flags), for: "attaching shared memory segment",
        vma.shmid)
    }
    sequence.current.call(
      __NR_mprotect, Argument(vma.start), Argument(vma.length), Argument(vma.prot), for: "protecting", vma.start)
  }

  /// Hands `body` a path that opens the file behind a segment, which the tracer is attached to as long.
  private static func attached<T>(
    _ id: Int, size: Int, readOnly: Bool, _ body: (String) throws(Failure) -> T
  ) throws(Failure) -> T {
    let address = try about("attaching it: shmat") { () throws(Errno) in
      try syscall(__NR_shmat, id, 0, readOnly ? 0o10000 /* SHM_RDONLY */ : 0)
    }
    defer { _ = cl_syscall(Int(__NR_shmdt), address, 0, 0, 0, 0, 0) }
    let end = try mappingEnd(address, size)
    return try body("/proc/self/map_files/\(String(address, radix: 16))-\(String(end, radix: 16))")
  }

  /// A mapping ends at a whole page, which may be a huge one.
  private static func mappingEnd(_ address: Int, _ size: Int) throws(Failure) -> UInt64 {
    let buffer = ReadBuffer()
    let mapping = try about("reading maps") { () throws(Errno) in
      let directory = try ProcDirectory(pid: getpid())
      return try withExtendedLifetime(buffer) { () throws(Errno) in
        Mapping.parse(try directory.read("maps", buffer)).first { $0.start == UInt64(address) }
      }
    }
    return mapping?.end ?? pageAlignUp(UInt64(address + size))
  }
}
