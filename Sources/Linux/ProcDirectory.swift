import CLinux
import Glibc
import SystemPackage

/// What all of this program takes for granted of `/proc`.
public enum Proc {
  /// Whether `/proc` shows processes by the numbers that this process knows them by: it may be that of another PID namespace.
  public static func check() throws(Failure) {
    let text = try about("/proc/self") { () throws(Errno) in try readlink("/proc/self") }
    if text.elementsEqual(String(getpid()).utf8) { return }
    throw Failure(
      "/proc is not that of this process's PID namespace: it calls this process \(text.text), which is \(getpid())",
      advice: "Mount the right one (mount -t proc proc /proc), or enter both namespaces (nsenter --pid --mount).")
  }
}

/// A growing buffer that is used again for one /proc file after the other.
public final class ReadBuffer {
  public private(set) var storage = UnsafeMutableRawBufferPointer.allocate(byteCount: 16384, alignment: 16)

  public init() {}
  deinit { storage.deallocate() }

  /// Reads a descriptor to its end. The bytes are valid until the next read.
  ///
  /// A file of /proc is made of records, and a read returns as many as fit into a page (fs/seq_file.c: seq_read_iter), or a part of
  /// one where the buffer ends. One that leaves room for the longest record there can be, in both, was the last: no other is needed
  /// to see the end. `longestRecord` is in bytes; without it the file is read until nothing comes.
  public func readAll(_ fd: Int32, longestRecord: Int? = nil) throws(Errno) -> UnsafeRawBufferPointer {
    var count = 0
    while true {
      if count == storage.count { grow() }
      let room = storage.count - count
      let n = try syscall(__NR_read, Int(fd), Int(bitPattern: storage.baseAddress) + count, room)
      count += n
      if n == 0 { break }
      if let longestRecord, n + longestRecord <= min(room, pageSize) { break }
    }
    return UnsafeRawBufferPointer(rebasing: storage[..<count])
  }

  /// Reads a small file of `/proc` that is kept open from its beginning, which has the kernel make it anew (man 2 pread).
  public func readAgain(_ fd: Int32) throws(Errno) -> UnsafeRawBufferPointer {
    var count = 0
    while true {
      if count == storage.count { grow() }
      let n = try syscall(__NR_pread64, Int(fd), Int(bitPattern: storage.baseAddress) + count, storage.count - count, count)
      count += n
      if n < pageSize { return UnsafeRawBufferPointer(rebasing: storage[..<count]) }
    }
  }

  /// Hands out the whole lines of a file of `/proc`, piece after piece, to its end.
  ///
  /// The kernel makes whole records until it has as many bytes as are asked for. What does not fit into its page any more it throws away,
  /// and makes again with the next read (fs/seq_file.c: seq_read_iter); a record of smaps can take as long as the walk over a
  /// gigabyte's pages. So no more is asked for than leaves room for one: `usualRecord`, in bytes. Longer ones come all the same.
  /// Ends early if `body` says `false`.
  func readLines(_ fd: Int32, usualRecord: Int, _ body: (UnsafeRawBufferPointer) -> Bool) throws(Errno) {
    var count = 0
    while true {
      if count == storage.count { grow() }
      let room = min(storage.count - count, pageSize - usualRecord)
      let n = try syscall(__NR_read, Int(fd), Int(bitPattern: storage.baseAddress) + count, room)
      count += n
      let lines = n == 0 ? count : (storage[..<count].lastIndex(of: 0x0a) ?? -1) + 1
      if !body(UnsafeRawBufferPointer(rebasing: storage[..<lines])) || n == 0 { return }
      if lines < count, lines > 0 {
        storage.copyMemory(from: UnsafeRawBufferPointer(rebasing: storage[lines..<count]))
      }
      count -= lines
    }
  }

  private func grow() {
    let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: storage.count * 2, alignment: 16)
    larger.copyMemory(from: UnsafeRawBufferPointer(storage))
    storage.deallocate()
    storage = larger
  }
}

/// Where the files of a process are in `/proc`: below an open folder, or by its number, which is only for one that cannot end unseen.
public struct ProcFolder: Sendable {
  /// The open folder, for calls that take one and a path.
  public let descriptor: Int32
  /// Whose it is if it is not open. Small, since a dump has one for each task.
  private let pid: Int32

  fileprivate init(open descriptor: Int32) { (self.descriptor, pid) = (descriptor, 0) }

  fileprivate init(pid: Int32) { (descriptor, self.pid) = (AT_FDCWD, pid) }

  /// This process's, and this thread's.
  public static let own = ProcFolder(pid: -1)
  public static let ownThread = ProcFolder(pid: -2)

  fileprivate var isOpen: Bool { pid == 0 }

  /// What to call a file together with ``descriptor``.
  public func path(_ name: String) -> String {
    switch pid {
    case 0: name
    case -1: "/proc/self/" + name
    case -2: "/proc/thread-self/" + name
    default: "/proc/\(pid)/" + name
    }
  }

  /// Opens a file of the folder (man 2 openat): ENOENT or ESRCH if the process has gone.
  public func open(_ name: String, _ flags: Int32 = O_RDONLY) throws(Errno) -> Descriptor {
    try Descriptor.open(at: descriptor, path(name), flags)
  }

  /// The text of a link (man 2 readlinkat).
  public func link(_ name: String) throws(Errno) -> [UInt8] { try readlink(at: descriptor, path(name)) }

  /// What stat(2) says of a file, or of what a link leads to.
  public func status(_ name: String) throws(Errno) -> stat { try fstat(at: descriptor, path(name)) }
}

/// `/proc/PID` of a process, as a rule held open: names below it resolve without a walk from the root, and
/// never reach another task that was given the same PID later (ESRCH instead).
public struct ProcDirectory: ~Copyable {
  public let folder: ProcFolder

  public init(pid: Int32) throws(Errno) {
    folder = ProcFolder(open: try Descriptor.open("/proc/\(pid)", O_PATH | O_DIRECTORY).release())
  }

  deinit { if folder.isOpen { _ = Descriptor(folder.descriptor) } }

  /// Not held open, where there are too many: of a process whose PID cannot become another's, because it has been stopped or its parent
  /// has, or that is about to be.
  public init(unheld pid: Int32) {
    folder = ProcFolder(pid: pid)
  }

  /// The content of a file, valid until the buffer's next use.
  public borrowing func read(_ name: String, _ buffer: ReadBuffer) throws(Errno)
    -> UnsafeRawBufferPointer
  {
    let file = try folder.open(name)
    // Mappings have names of any length; no other file that is read here has records of more than a few dozen bytes, or it
    // is one record as a whole.
    return try buffer.readAll(file.rawValue, longestRecord: name.hasSuffix("maps") ? nil : 512)
  }

  public borrowing func open(_ name: String, _ flags: Int32 = O_RDONLY) throws(Errno) -> Descriptor {
    try folder.open(name, flags)
  }

  public borrowing func link(_ name: String) throws(Errno) -> [UInt8] { try folder.link(name) }

  /// The children of a thread, who came first first (man 5 proc_tid_children).
  public borrowing func children(of tid: Int32, _ buffer: ReadBuffer) throws(Errno) -> [Int32] {
    var text = ByteCursor(try read("task/\(tid)/children", buffer))
    var list: [Int32] = []
    text.skipBlanks()
    while !text.atEnd {
      list.append(Int32(truncatingIfNeeded: text.decimal()))
      text.skip()
    }
    return list
  }

  /// The entries of a directory whose names are numbers (`task`, `fd`), in the kernel's order.
  public borrowing func numbers(in name: String, _ buffer: ReadBuffer) throws(Errno) -> [Int32] {
    let directory = try folder.open(name, O_RDONLY | O_DIRECTORY)
    return try buffer.numbers(in: directory.rawValue)
  }
}

extension ReadBuffer {
  /// The entries of an open directory whose names are numbers, in the kernel's order.
  public func numbers(in directory: Int32) throws(Errno) -> [Int32] {
    var numbers: [Int32] = []
    while true {
      let n = try syscall(
        __NR_getdents64, Int(directory), Int(bitPattern: storage.baseAddress), storage.count)
      var offset = 0
      while offset < n {
        // struct linux_dirent64: u64 ino, s64 off, u16 reclen, u8 type, char name[]
        let length = Int(storage.loadUnaligned(fromByteOffset: offset + 16, as: UInt16.self))
        var cursor = ByteCursor(
          UnsafeRawBufferPointer(rebasing: storage[(offset + 19)..<(offset + length)]))
        if let c = cursor.peek, c >= 0x30, c <= 0x39 {
          numbers.append(Int32(truncatingIfNeeded: cursor.decimal()))
        }
        offset += length
      }
      // The kernel stops when an entry does not fit: where the longest one would have, there are no more.
      if n == 0 || n + 280 <= storage.count { return numbers }
    }
  }
}
