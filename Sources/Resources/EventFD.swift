import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// Counters that wake those who wait for them (man 2 eventfd).
public enum EventFD: FileKind {
  public static let type = FdTypes.eventfd

  private static let semaphore: UInt32 = 1  // EFD_SEMAPHORE

  public static func matches(_ file: DumpedFile) -> Bool {
    file.link.elementsEqual("anon_inode:[eventfd]".utf8)
  }

  public static func record(_ file: DumpedFile, id: UInt32, _ dump: DumpContext) throws(Failure) -> FileEntry {
    var event = EventfdFileEntry()
    event.id = id
    event.flags = file.info.flags & descriptionFlags
    // Kernels before 6.5 do not show it.
    if file.info.number("eventfd-semaphore") == 1 { event.flags |= semaphore }
    guard let counter = file.info.number("eventfd-count", radix: 16) else {
      throw Failure("\(file.description): its fdinfo has no eventfd-count")
    }
    event.counter = counter
    event.fown = try about(file.description) { () throws(Failure) in try file.owner() }
    var entry = FileEntry(type, id)
    entry.efd = event
    return entry
  }

  public static func check(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) {
    _ = try entry.part(entry.efd)
  }

  public static func open(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    let event = try entry.part(entry.efd)
    return try about("eventfd \(entry.id)") { () throws(Errno) -> Descriptor in
      let flags = Int(event.flags & semaphore) | Int(O_CLOEXEC)
      let descriptor = Descriptor(Int32(try syscall(__NR_eventfd2, 0, flags)))
      try setCounter(descriptor.rawValue, event.counter)
      try event.fown.restore(to: descriptor.rawValue, flags: event.flags)
      return descriptor
    }
  }

  /// eventfd2 takes only 32 bits; a write adds 64, all but the largest number (fs/eventfd.c: eventfd_write).
  private static func setCounter(_ fd: Int32, _ counter: UInt64) throws(Errno) {
    guard counter != 0 else { return }
    var value = min(counter, UInt64.max - 1)
    try withUnsafeMutablePointer(to: &value) { pointer throws(Errno) in
      _ = try syscall(__NR_write, Int(fd), Int(bitPattern: pointer), 8)
    }
  }
}
