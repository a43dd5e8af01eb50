import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// Files that are opened by a path: regular files, directories, the memory devices, and anything under O_PATH.
/// Also what a task maps, its executable, and its working and root directories.
public enum RegularFile: FileKind {
  public static let type = FdTypes.reg

  /// null, zero, full, random, urandom (Documentation/admin-guide/devices.txt)
  private static let memoryDevices: Set<UInt32> = [3, 5, 7, 8, 9]

  public static func matches(_ file: DumpedFile) -> Bool {
    guard !file.isAnonymous, !file.link.starts(with: "/memfd:".utf8) else { return false }
    if file.info.flags & UInt32(O_PATH) != 0 { return true }
    switch file.format {
    case S_IFREG, S_IFDIR: return true
    case S_IFCHR:
      let (major, minor) = deviceNumber(UInt64(file.stat.st_rdev))
      return major == 1 && memoryDevices.contains(minor)
    default: return false
    }
  }

  public static func objection(_ file: DumpedFile, _ options: DumpOptions) -> String? {
    if file.info.locks > 0 { return "a file lock (file-locks)" }
    if file.link.starts(with: "(unreachable)".utf8) { return "a file outside the root (unreachable)" }
    return ProcessFile.objection(file, options)
  }

  public static func record(_ file: DumpedFile, id: UInt32, _ dump: DumpContext) throws(Failure) -> FileEntry {
    var reg = RegFileEntry()
    reg.id = id
    reg.flags = file.info.flags & descriptionFlags & ~UInt32(bitPattern: O_TMPFILE & ~O_DIRECTORY)
    if file.format != S_IFDIR { reg.flags &= ~UInt32(O_DIRECTORY) }
    reg.pos = file.info.position
    reg.mode = file.stat.st_mode
    reg.name = file.link
    if let place = dump.namespaces?.place(of: file), place.namespace != nil { reg.mntId = place.mount.id }
    if file.number >= 0 && reg.flags & UInt32(O_PATH) == 0 {
      reg.fown = try about(file.description) { () throws(Failure) in try file.owner() }
    }
    if file.format == S_IFREG {
      reg.size = UInt64(file.stat.st_size)
      reg.buildId = dump.buildID(of: file)
    }
    if let name = try DeletedFile.nameIfDeleted(file, dump) {
      reg.name = name
      try DeletedFile.record(file, name: name, id: id, dump)
    }
    var entry = FileEntry()
    entry.type = type
    entry.id = id
    entry.reg = reg
    return entry
  }

  public static func check(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) {
    let reg = try part(of: entry)
    guard restore.remaps[entry.id] == nil else { return try DeletedFile.check(entry.id, restore) }
    // There when the tree is.
    if ProcessFile(reg.name).map({ restore.pids.contains(UInt32($0.pid)) }) ?? false { return }
    if restore.privileges.areLimited { concede(reg, restore) }
    let expectation = Expectation(mount: reg.mount, name: reg.name, mode: reg.mode, size: reg.size, buildID: reg.buildId)
    if restore.confirmedFile == expectation || restore.confirmedFiles.contains(expectation) { return }
    try confirm(reg, restore)
    restore.confirmedFiles.insert(expectation)
    restore.confirmedFile = expectation
  }

  public static func needsNobody(_ entry: FileEntry, _ restore: RestoreContext) -> Bool {
    guard let reg = entry.reg else { return false }
    return reg.fown.pid == 0 && restore.remaps[entry.id] == nil && ProcessFile(reg.name) == nil
  }

  /// What the images say of the file behind a name.
  struct Expectation: Hashable {
    var mount: Int32
    var name: [UInt8]
    var mode: UInt32?
    var size: UInt64?
    var buildID: [UInt32]
  }

  /// What root has opened for a tree its user may not be able to open again.
  private static func concede(_ reg: RegFileEntry, _ restore: RestoreContext) {
    guard reg.flags & UInt32(O_PATH) == 0, !restore.mounts.contains(reg.mount) else { return }
    let (mode, purpose) = [(R_OK, "reading"), (W_OK, "writing"), (R_OK | W_OK, "reading and writing")][min(Int(reg.flags & 3), 2)]
    let result = (reg.name + [0]).withUnsafeBytes {
      cl_syscall(Int(__NR_faccessat2), Int(AT_FDCWD), Int(bitPattern: $0.baseAddress), Int(mode), 0x200 /* AT_EACCESS */, 0, 0)
    }
    if result == -Int(EACCES) {
      restore.concessions.add("this user may not open it for \(purpose)", of: "file \(reg.name.text)", isVital: true)
    }
  }

  private static func confirm(_ reg: RegFileEntry, _ restore: RestoreContext) throws(Failure) {
    let subject = "file \(reg.name.text) (files.img: \(reg.id))"
    let isInner = restore.mounts.contains(reg.mount)
    guard let path = isInner ? restore.mounts.outerPath(reg.name, through: reg.mount) : reg.name else { return }
    try confirmFolder(of: path, subject, restore)
    let st = try about(subject, advice: "The tree needs it as it was at the dump; put it back.") {
      () throws(Errno) in try fstat(of: path)
    }
    // Whatever the user accepts: what was a file may be a pipe now, whose open waits, or lead elsewhere.
    let type = reg.mode.map { $0 & S_IFMT } ?? (st.st_mode & S_IFMT == S_IFLNK ? S_IFREG : st.st_mode & S_IFMT)
    guard type == st.st_mode & S_IFMT else {
      throw Failure(
        "\(subject) is \(st.st_mode & S_IFMT == S_IFLNK ? "a symbolic link now" : "of another type than at the dump")",
        advice: "The tree needs it as it was; put it back.")
    }
    guard restore.options.validateFiles else { return }
    guard st.st_mode & S_IFMT == S_IFREG else { return }
    if let size = reg.size, size != UInt64(st.st_size) {
      throw Failure("\(subject) has \(st.st_size) bytes; at the dump it had \(size)", advice: changedAdvice)
    }
    if !reg.buildId.isEmpty, restore.options.validateBuildIDs {
      let now = BuildID.read(RecordedPath(path: path))
      if now != reg.buildId {
        throw Failure("\(subject) has another build-id than at the dump", advice: changedAdvice)
      }
    }
  }

  /// The folder must be reached without any symbolic link, as every file in it will be.
  private static func confirmFolder(of path: [UInt8], _ subject: String, _ restore: RestoreContext) throws(Failure) {
    let folder = Array(path[..<(path.lastIndex(of: UInt8(ascii: "/")) ?? 0)])
    guard restore.confirmedFolders.insert(folder).inserted, !folder.isEmpty else { return }
    do throws(Failure) {
      _ = try RecordedPath(path: folder).open(O_PATH)
    } catch {
      throw error.of(subject).advised("The tree needs it where it was at the dump; put it back.")
    }
  }

  private static let changedAdvice =
    "The tree needs it as it was; put it back, or accept the change with --file-validation none."

  public static func open(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    let reg = try part(of: entry)
    let flags = openFlags(of: reg)
    if let remap = restore.remaps[entry.id] {
      return try about("file \(reg.name.text)") { () throws(Failure) in
        let descriptor = try DeletedFile.open(reg, remap, flags, restore)
        try finish(descriptor.rawValue, reg)
        return descriptor
      }
    }
    return try about("file \(reg.name.text)") { () throws(Failure) -> Descriptor in
      let descriptor = try restore.path(of: reg).open(flags | (reg.isLink ? O_NOFOLLOW : 0))
      try finish(descriptor.rawValue, reg, made: flags)
      return descriptor
    }
  }

  /// What says how to open, without what would change the file. O_TMPFILE has O_DIRECTORY in it, for the folder.
  private static func openFlags(of reg: RegFileEntry) -> Int32 {
    let unnamed = O_TMPFILE & ~O_DIRECTORY
    var flags = Int32(bitPattern: reg.flags)
    if flags & unnamed != 0 { flags &= ~O_DIRECTORY }
    return flags & ~(O_CREAT | O_EXCL | O_TRUNC | unnamed) | O_NOCTTY
  }

  /// A file that nobody else has open: one call in the task, which would be one in the tracer and mostly two in the task.
  public static func make(
    _ entries: ArraySlice<FdinfoEntry>, in task: RestoredTask, _ restore: RestoreContext, _ sequence: inout ProgramSequence
  ) -> Int {
    guard let first = entries.first, restore.hasOneUser(first.id), let entry = restore.files[first.id], entry.type == type,
      let reg = entry.reg, needsNobody(entry, restore), reg.fown.signum == 0, !reg.isLink, restore.seesTheSame(task)
    else { return 0 }
    let flags = openFlags(of: reg) | (first.flags & 1 != 0 ? O_CLOEXEC : 0)
    sequence.makeRoom(calls: 2, bytes: reg.name.count + 1 + 2 * MemoryLayout<OpenHow>.size)
    sequence.current.call(
      __NR_openat2, Argument(Int(AT_FDCWD)), Argument(sequence.current.place(path: reg.name)),
      Argument(sequence.current.place(OpenHow(flags, resolving: .noLinks))), Argument(MemoryLayout<OpenHow>.size), expect: Int64(first.fd),
      for: "opening the file of descriptor", UInt64(first.fd))
    if reg.pos != 0, reg.flags & UInt32(O_PATH) == 0 {
      sequence.current.call(
        __NR_lseek, Argument(first.fd), Argument(reg.pos), 0, for: "seeking in the file of descriptor", UInt64(first.fd))
    }
    return 1
  }

  private static func finish(_ fd: Int32, _ reg: RegFileEntry, made: Int32? = nil) throws(Failure) {
    if reg.flags & UInt32(O_PATH) != 0 { return }
    if reg.pos != 0 {
      try about("seeking to \(reg.pos)") { () throws(Errno) in
        _ = try syscall(__NR_lseek, Int(fd), Int(truncatingIfNeeded: reg.pos), 0)
      }
    }
    try about("setting its owner") { () throws(Errno) in try reg.fown.restore(to: fd, flags: reg.flags, made: made) }
  }

  static func part(of entry: FileEntry) throws(Failure) -> RegFileEntry {
    guard let reg = entry.reg else {
      throw Failure("files.img: file \(entry.id) is a regular file without its part")
    }
    guard reg.name.first == UInt8(ascii: "/"), !reg.name.contains(0) else {
      throw Failure("files.img: file \(entry.id): name \"\(reg.name.text)\" is not an absolute path")
    }
    return reg
  }
}

/// Major and minor number of a device, as the kernel's `new_decode_dev` has them.
func deviceNumber(_ device: UInt64) -> (major: UInt32, minor: UInt32) {
  (UInt32((device >> 8) & 0xfff), UInt32((device & 0xff) | ((device >> 12) & 0xfff00)))
}

extension RegFileEntry {
  /// The mount that it is reached through; -1 if that is not one of the tree's.
  var mount: Int32 { mntId ?? -1 }

  fileprivate var isLink: Bool { mode.map { $0 & S_IFMT == S_IFLNK } ?? false }
}
