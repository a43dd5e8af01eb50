import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// One kind of file description: how it is recognized and recorded, and how it is made again.
///
/// Descriptions are examined and made by the tracer, by plain system calls on duplicates that `pidfd_getfd` gives. Inside a task is
/// done what is bound to its own table or memory (``complete``), and what takes fewer calls there (``make``).
public protocol FileKind: SendableMetatype {
  static var type: FdTypes { get }

  /// Whether the description is of this kind. Kinds are asked in the order of ``fileKinds``.
  static func matches(_ file: DumpedFile) -> Bool

  /// Why a description of this kind cannot be dumped, in a few words; `nil` if it can. Nothing has been
  /// changed yet when this is asked.
  static func objection(_ file: DumpedFile, _ options: DumpOptions) -> String?

  /// The image of the description. `id` is its number in `files.img`.
  static func record(_ file: DumpedFile, id: UInt32, _ dump: DumpContext) throws(Failure) -> FileEntry

  /// Checks an entry and what it needs from the system, before anything is made. The default has nothing to check.
  static func check(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure)

  /// Makes the description again, in the tracer.
  static func open(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) -> Descriptor

  /// Whether a description can be made before the tree's tasks exist: it has to do with none of them. The default says no.
  static func needsNobody(_ entry: FileEntry, _ restore: RestoreContext) -> Bool

  /// Has a task make descriptions by itself, for which nobody else needs a descriptor: those of `entries` that come first, by calls
  /// that put each at the lowest free number, which the first one's is, in ascending order. How many these are; 0 leaves them to
  /// ``open``.
  static func make(
    _ entries: ArraySlice<FdinfoEntry>, in task: RestoredTask, _ restore: RestoreContext, _ sequence: inout ProgramSequence
  ) -> Int

  /// Appends what a task must do itself once all its descriptors are in place; `number` is one of them. Asked
  /// again with an empty program as long as ``RestoreContext/unfinished`` holds the entry's ID.
  static func complete(
    _ entry: FileEntry, number: Int32, in task: RestoredThread, _ restore: RestoreContext,
    _ program: inout SyscallProgram
  ) throws(Failure)

  /// What is left to be done once every task has its memory and its descriptors; asked once, just before the release.
  static func finish(_ restore: RestoreContext) throws(Failure)
}

extension FileKind {
  public static func objection(_ file: DumpedFile, _ options: DumpOptions) -> String? { nil }
  public static func check(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) {}
  public static func needsNobody(_ entry: FileEntry, _ restore: RestoreContext) -> Bool { false }
  public static func make(
    _ entries: ArraySlice<FdinfoEntry>, in task: RestoredTask, _ restore: RestoreContext, _ sequence: inout ProgramSequence
  ) -> Int { 0 }
  public static func complete(
    _ entry: FileEntry, number: Int32, in task: RestoredThread, _ restore: RestoreContext,
    _ program: inout SyscallProgram
  ) throws(Failure) {}
  public static func finish(_ restore: RestoreContext) throws(Failure) {}
}

/// All kinds that can be dumped and restored.
public let fileKinds: [any FileKind.Type] = [
  Pipe.self, RegularFile.self, EventFD.self, Epoll.self, TimerFD.self, SignalFD.self, MemFD.self, Fifo.self,
  Terminal.self,
]

/// A file description of the tree under dump, seen through one of its descriptors, or through a mapping or a link that
/// holds a file without one.
public struct DumpedFile {
  /// A task that holds it, and under which number; -1: it is mapped, or a directory or executable of the task.
  public var pid: Int32
  public var number: Int32
  /// Where the kernel shows it: a path below `/proc/PID` that opens the very file.
  public var procPath: String
  /// What that link says: a path, or "pipe:[1234]", "anon_inode:[eventfd]" and the like.
  public var link: [UInt8]
  public var stat: Glibc.stat
  public var info = FdInfo()
  /// Who gets its signals, if that was asked already.
  var fown: FownEntry?
  /// Whether it is a pipe, and one with nothing in it, of this many bytes.
  var isEmptyPipe: UInt32?
  /// Somebody has locked a part of it, perhaps through this very description: each process that has it must be looked at.
  var mayBeLocked = false
  /// The description's in the kernel, where an iterator told it.
  var address: UInt64?
  /// A duplicate that the tracer still has.
  var duplicated: KeptDuplicate?

  /// Who has it under which number, for a comparison (man 2 kcmp). The tracer's own duplicate is cheaper to compare: no rights
  /// have to be looked at (kernel/ptrace.c: __ptrace_may_access).
  var place: (pid: Int32, number: Int32) { duplicated.map { (KeptDuplicate.pid, $0.number) } ?? (pid, number) }

  public var linkText: String { link.text }
  public var isAnonymous: Bool { link.first != UInt8(ascii: "/") }

  /// "task 12 (descriptor 3 -> /dev/null)"
  public var description: String {
    number >= 0
      ? "task \(pid): descriptor \(number) -> \(linkText)" : "task \(pid): \(procPath) -> \(linkText)"
  }

  /// Notes the mount of a file that has no descriptor to tell it. Without mount namespaces in the tree, all have the tracer's.
  mutating func findMount(_ task: DumpedTask, _ dump: DumpContext) throws(Failure) {
    guard let table = dump.namespaces, table.hasMounts else { return }
    info.mountID = try about("its mount: statx") { () throws(Errno) in
      try mountID(at: task.directory.folder.descriptor, task.directory.folder.path(procPath))
    }
    if !isAnonymous, !link.starts(with: "/memfd:".utf8), table.place(of: self) == nil, !table.isReached(self),
      !table.isShared(self, with: task)
    {
      throw Failure("\(description): a file on a mount that is in no namespace of the tree (mount)")
    }
  }

  /// Who gets the description's signals.
  func owner() throws(Failure) -> FownEntry {
    if let fown { return fown }
    let duplicate = try duplicate()
    return try about("reading its owner") { () throws(Errno) in try FownEntry(of: duplicate.rawValue) }
  }

  /// The file type bits of st_mode.
  public var format: UInt32 { stat.st_mode & S_IFMT }
}

/// `/proc/PID/fdinfo/N` (man 5 proc_pid_fdinfo).
public struct FdInfo: Sendable {
  public var position: UInt64 = 0
  /// open(2) flags, O_CLOEXEC among them.
  public var flags: UInt32 = 0
  public var mountID: Int32 = -1
  public var inode: UInt64 = 0
  /// File locks are shown as lines of their own.
  public var locks = 0
  /// The lines that only some kinds have.
  public var lines: [[UInt8]] = []

  public init() {}

  public init(_ text: UnsafeRawBufferPointer) {
    var c = ByteCursor(text)
    while !c.atEnd {
      var line = ByteCursor(c.line())
      if line.startsWith("pos:") {
        line.skip(4)
        line.skipBlanks()
        position = UInt64(bitPattern: line.decimal())
      } else if line.startsWith("flags:") {
        line.skip(6)
        line.skipBlanks()
        flags = UInt32(truncatingIfNeeded: line.octal())
      } else if line.startsWith("mnt_id:") {
        line.skip(7)
        line.skipBlanks()
        mountID = Int32(truncatingIfNeeded: line.decimal())
      } else if line.startsWith("ino:") {
        line.skip(4)
        line.skipBlanks()
        inode = line.unsigned()
      } else if line.startsWith("lock:") {
        locks += 1
      } else {
        lines.append([UInt8](line.bytes))
      }
    }
  }

  /// What follows `key:` in a line of its own.
  public func value(_ key: String) -> String? {
    for line in lines where line.starts(with: (key + ":").utf8) {
      return line.dropFirst(key.utf8.count + 1).drop { $0 == 0x20 || $0 == 0x09 }.map { $0 }.text
    }
    return nil
  }

  /// The number that follows `key:`; `nil` if there is no such line, or no number in it.
  func number(_ key: String, radix: Int = 10) -> UInt64? {
    value(key).flatMap { UInt64($0, radix: radix) }
  }
}

extension FileEntry {
  init(_ type: FdTypes, _ id: UInt32) {
    self.init()
    self.type = type
    self.id = id
  }

  /// The part of an entry that its type promises.
  func part<Part>(_ part: Part?) throws(Failure) -> Part {
    guard let part else { throw Failure("files.img: file \(id) is of the kind \(type) without its part") }
    return part
  }
}

/// Flags of open(2) that a description keeps; O_CLOEXEC belongs to the descriptor.
public let descriptionFlags = ~UInt32(bitPattern: O_CLOEXEC)

extension FownEntry {
  /// Who gets a description's signals (man 2 fcntl, F_GETOWN_EX, F_GETSIG).
  public init(of fd: Int32) throws(Errno) {
    self.init()
    // struct f_owner_ex: type, pid
    var owner: (Int32, Int32) = (0, 0)
    try withUnsafeMutablePointer(to: &owner) { pointer throws(Errno) in
      _ = try syscall(__NR_fcntl, Int(fd), F_GETOWN_EX, Int(bitPattern: pointer))
    }
    guard owner.1 != 0 else {
      signum = UInt32(try syscall(__NR_fcntl, Int(fd), F_GETSIG))
      return
    }
    var uids: (UInt32, UInt32) = (0, 0)
    try withUnsafeMutablePointer(to: &uids) { pointer throws(Errno) in
      _ = try syscall(__NR_fcntl, Int(fd), F_GETOWNER_UIDS, Int(bitPattern: pointer))
    }
    (uid, euid) = uids
    // The image has PIDTYPE_PID 0, PIDTYPE_TGID 1, PIDTYPE_PGID 2; fcntl has F_OWNER_TID 0, _PID 1, _PGRP 2.
    pidType = UInt32(owner.0)
    pid = UInt32(bitPattern: owner.1)
    signum = UInt32(try syscall(__NR_fcntl, Int(fd), F_GETSIG))
  }
}
