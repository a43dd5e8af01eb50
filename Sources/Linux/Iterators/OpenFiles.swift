import SystemPackage

/// What the kernel itself has noted of one descriptor of a process and of the file description that it names (include/linux/fs.h: struct
/// file, struct inode).
public struct OpenFile {
  fileprivate let words: ArraySlice<UInt64>

  public var number: Int32 { Int32(truncatingIfNeeded: words[words.startIndex]) }
  public var closesOnExec: Bool { word(1) != 0 }
  /// Of the description: two descriptors with the same name the same.
  public var address: UInt64 { word(2) }
  /// Of open(2).
  public var flags: UInt32 { UInt32(truncatingIfNeeded: word(3)) }
  /// FMODE_READ and its like.
  public var mode: UInt32 { UInt32(truncatingIfNeeded: word(4)) }
  public var position: UInt64 { word(5) }
  /// Where it was opened: the addresses of a mount and a name, which together are what the link in `/proc` shows.
  public var mount: UInt64 { word(6) }
  public var name: UInt64 { word(7) }
  public var inode: UInt64 { word(8) }
  /// What stat(2) says of it.
  public var inodeNumber: UInt64 { word(9) }
  public var fileMode: UInt32 { UInt32(truncatingIfNeeded: word(10)) }
  public var device: UInt64 {
    let (major, minor) = (word(11) >> 20, word(11) & 0xfffff)
    return (minor & 0xff) | major << 8 | (minor & ~0xff) << 12
  }
  /// Whether anybody has ever locked it, or has a lease on it.
  public var hasLocks: Bool { word(12) != 0 }
  /// Whether anybody is to get its signals, or another signal than the usual one was chosen (man 2 fcntl, F_SETOWN, F_SETSIG).
  public var hasOwner: Bool { word(13) != 0 || word(14) != 0 }
  /// Bytes that fit into the pipe, if it is one, and has nothing in it.
  public var emptyPipeSize: UInt32? { word(15) == word(16) ? UInt32(truncatingIfNeeded: word(17)) * UInt32(pageSize) : nil }

  fileprivate static let fields: [IteratorProgram.Field] = [
    .argument(offset: 16, size: 4), .closesOnExec(task: 8, number: 16), .address, .member("f_flags"), .member("f_mode"), .member("f_pos"),
    .member("f_path", "mnt"), .member("f_path", "dentry"), .member("f_inode"), .member("f_inode", "i_ino"), .member("f_inode", "i_mode"),
    .member("f_inode", "i_sb", "s_dev"), .member("f_inode", "i_flctx"), .member("f_owner", "pid"), .member("f_owner", "signum"),
    .member("f_inode", "i_pipe", "head"), .member("f_inode", "i_pipe", "tail"), .member("f_inode", "i_pipe", "max_usage"),
  ]

  private func word(_ n: Int) -> UInt64 { words[words.startIndex + n] }
}

/// All descriptors of a process, in ascending order.
public struct OpenFiles: Sequence {
  private let words: [UInt64]

  private static let iterator = KernelIterator("task_file", OpenFile.fields, of: ("file", 24))

  /// To look at fewer one by one takes less than to get an iterator ready.
  public static let many = 256

  /// Whether there is an iterator, which takes a millisecond or two to find out.
  public static var canBeAsked: Bool { iterator != nil }

  /// `nil`: they have to be looked at one after the other. `count`: how many there are.
  public init?(of pid: Int32, count: Int) {
    guard let words = try? Self.iterator?.records(of: pid), words.count == count * OpenFile.fields.count else { return nil }
    self.words = words
  }

  public func makeIterator() -> some IteratorProtocol<OpenFile> {
    let size = OpenFile.fields.count
    return stride(from: 0, to: words.count, by: size).lazy.map { OpenFile(words: words[$0..<$0 + size]) }.makeIterator()
  }
}
