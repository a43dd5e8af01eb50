import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// Descriptors that signals are read from (man 2 signalfd). Whose signals they are is up to the task that reads.
public enum SignalFD: FileKind {
  public static let type = FdTypes.signalfd

  public static func matches(_ file: DumpedFile) -> Bool {
    file.link.elementsEqual("anon_inode:[signalfd]".utf8)
  }

  public static func record(_ file: DumpedFile, id: UInt32, _ dump: DumpContext) throws(Failure) -> FileEntry {
    var signals = SignalfdEntry()
    signals.id = id
    signals.flags = file.info.flags & descriptionFlags
    // The mask is shown as signalfd(2) was given it: the signals that are accepted.
    guard let mask = file.info.number("sigmask", radix: 16) else {
      throw Failure("\(file.description): its fdinfo has no sigmask")
    }
    signals.sigmask = mask
    signals.fown = try about(file.description) { () throws(Failure) in try file.owner() }
    var entry = FileEntry(type, id)
    entry.sgfd = signals
    return entry
  }

  public static func check(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) {
    _ = try entry.part(entry.sgfd)
  }

  public static func open(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    let signals = try entry.part(entry.sgfd)
    return try about("signalfd \(entry.id)") { () throws(Errno) -> Descriptor in
      var mask = signals.sigmask
      let fd = try withUnsafeMutablePointer(to: &mask) { pointer throws(Errno) in
        try syscall(__NR_signalfd4, -1, Int(bitPattern: pointer), 8, Int(O_CLOEXEC))
      }
      let descriptor = Descriptor(Int32(fd))
      try signals.fown.restore(to: descriptor.rawValue, flags: signals.flags)
      return descriptor
    }
  }
}
