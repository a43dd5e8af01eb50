import Glibc

/// A file description of an image set.
public struct FileSummary: Sendable {
  public enum Access: String, Sendable {
    case read = "r"
    case write = "w"
    case both = "rw"
    /// O_PATH
    case path
  }

  /// Equal IDs, one description.
  public var id: UInt32
  public var kind: FdTypes
  /// What it stands for: a path, "pipe:[1234]", an address. Empty if there is nothing to tell.
  public var target: String
  /// `nil` where the kind keeps no open(2) flags.
  public var access: Access?
  /// open(2) flags.
  public var flags: UInt32?
  /// The file offset in bytes, for kinds that have one.
  public var position: UInt64?

  /// The path is gone, or leads to another file; the set has the file in another way.
  public var isDeleted = false

  /// The name of the kind as the format has it, in lower case: reg, pipe, unixsk.
  public var kindName: String { kind.description.lowercased() }
}

/// `files.img`, and the images that its entries refer to.
struct FileTable {
  private var entries: [UInt32: FileEntry] = [:]
  private var terminals: [UInt32: TtyInfoEntry] = [:]
  private(set) var memfds: [UInt64: MemfdInodeEntry] = [:]
  /// Entries whose path does not lead to them.
  private var deleted: Set<UInt32> = []

  init(_ directory: borrowing ImageDirectory) throws(ImageError) {
    for entry in try directory.readAll(FileEntry.self, from: .files) { entries[entry.id] = entry }
    if directory.contains(.ttyInfo) {
      for entry in try directory.readAll(TtyInfoEntry.self, from: .ttyInfo) { terminals[entry.id] = entry }
    }
    if directory.contains(.remapFilePath) {
      deleted = Set(try directory.readAll(RemapFilePathEntry.self, from: .remapFilePath).map(\.origId))
    }
    if directory.contains(.memfd) {
      for entry in try directory.readAll(MemfdInodeEntry.self, from: .memfd) { memfds[entry.inodeId] = entry }
    }
  }

  func summary(of id: UInt32) throws(ImageError) -> FileSummary {
    guard let entry = entries[id] else {
      throw ImageError(file: ImageFile.files.fileName, .missing(message: "file_entry \(id)"))
    }
    // A fifo was opened by an entry of its own.
    let file = entry.fifo?.regfId ?? id
    let flags = entry.openFlags ?? entries[file]?.openFlags
    return FileSummary(
      id: id, kind: entry.type, target: target(of: entry), access: flags.map(FileSummary.Access.init),
      flags: flags, position: entry.reg?.pos ?? entry.memfd?.pos, isDeleted: deleted.contains(file))
  }

  private func target(of file: FileEntry) -> String {
    switch file.type {
    case .reg: file.reg.map { text($0.name) } ?? ""
    case .pipe: file.pipe.map { "pipe:[\($0.pipeId)]" } ?? ""
    case .fifo: file.fifo.map { "\(path(of: $0.regfId)) fifo:[\($0.pipeId)]" } ?? ""
    case .inetsk: file.isk.map(describe) ?? ""
    case .unixsk: file.usk.map(describe) ?? ""
    case .netlinksk: file.nlsk.map { "protocol \($0.protocol), port \($0.portid)" } ?? ""
    case .packetsk: file.psk.map { "protocol \($0.protocol), interface \($0.ifindex)" } ?? ""
    case .eventfd: file.efd.map { "counter \($0.counter)" } ?? ""
    case .eventpoll: file.epfd.map(describe) ?? ""
    case .signalfd: file.sgfd.map { "signals \(signals($0.sigmask))" } ?? ""
    case .timerfd: file.tfd.map { "clock \($0.clockid)" } ?? ""
    case .inotify: file.ify.map { "\($0.wd.count) watches" } ?? ""
    case .fanotify: file.ffy.map { "\($0.mark.count) marks" } ?? ""
    case .tty: file.tty.map(describe) ?? ""
    case .memfd: file.memfd.map { "memfd:\(memfds[UInt64($0.inodeId)].map { text($0.name) } ?? "")" } ?? ""
    case .pidfd: file.pidfd.map { $0.nspid < 0 ? "a process that is gone" : "process \($0.nspid)" } ?? ""
    case .ns: file.nsf.map { "namespace \($0.nsId)" } ?? ""
    case .tunf: file.tunf.map { $0.netdev.map(text) ?? "" } ?? ""
    default: ""
    }
  }

  /// How a file is called that an entry was opened by.
  private func path(of id: UInt32?) -> String {
    id.flatMap { entries[$0]?.reg }.map { text($0.name) } ?? "?"
  }

  private func describe(_ terminal: TtyFileEntry) -> String {
    guard terminal.regfId == nil else { return path(of: terminal.regfId) }
    return terminals[terminal.ttyInfoId]?.pty.map { "/dev/pts/\($0.index)" } ?? ""
  }

  private func describe(_ epoll: EventpollFileEntry) -> String {
    epoll.tfd.isEmpty ? "" : "descriptors " + epoll.tfd.map { "\($0.tfd)" }.joined(separator: ",")
  }

  private func describe(_ socket: UnixSkEntry) -> String {
    // An abstract name begins with a NUL, for which ss and /proc/net/unix write an @.
    let name = socket.name.first == 0 ? "@" + text(socket.name.dropFirst()) : text(socket.name)
    var words = "\(socketType(socket.type)) unix:[\(socket.ino)]"
    if socket.peer != 0 { words += " peer unix:[\(socket.peer)]" }
    if !name.isEmpty, name != "@" { words += " \(name)" }
    return words + (socket.state == 10 ? " listening" : "")
  }

  private func describe(_ socket: InetSkEntry) -> String {
    let name =
      switch socket.proto {
      case 6: "tcp"
      case 17: "udp"
      case 136: "udplite"
      case 1, 58: "icmp"
      default: "\(socketType(socket.type)) protocol \(socket.proto)"
      }
    let source = "\(name) \(address(socket.srcAddr, socket.family)):\(socket.srcPort)"
    if socket.state == 10 { return source + " listening" }
    if socket.dstPort == 0 { return source }
    return source + " to \(address(socket.dstAddr, socket.family)):\(socket.dstPort)"
  }

  /// One word or four, each with its bytes in network order.
  private func address(_ words: [UInt32], _ family: UInt32) -> String {
    let isV6 = family == UInt32(AF_INET6)
    guard words.count >= (isV6 ? 4 : 1) else { return "?" }
    var buffer = [UInt8](repeating: 0, count: Int(INET6_ADDRSTRLEN))
    buffer.withUnsafeMutableBytes { buffer in
      words.withUnsafeBytes {
        _ = inet_ntop(
          Int32(family), $0.baseAddress, buffer.baseAddress?.assumingMemoryBound(to: CChar.self),
          socklen_t(INET6_ADDRSTRLEN))
      }
    }
    return isV6 ? "[\(text(buffer))]" : text(buffer)
  }

  private func socketType(_ type: UInt32) -> String {
    switch type {
    case 1: "stream"
    case 2: "datagram"
    case 3: "raw"
    case 5: "seqpacket"
    default: "type \(type)"
    }
  }

  /// The numbers of the signals in a mask.
  private func signals(_ mask: UInt64) -> String {
    (1...64).filter { mask & (1 << UInt64($0 - 1)) != 0 }.map { "\($0)" }.joined(separator: ",")
  }
}

extension FileSummary.Access {
  init(_ flags: UInt32) {
    if flags & 0o10000000 != 0 {
      self = .path
    } else {
      self =
        switch flags & 3 {
        case 0: .read
        case 1: .write
        default: .both
        }
    }
  }
}

extension FileEntry {
  /// open(2) flags, of the kinds that have any.
  fileprivate var openFlags: UInt32? {
    switch type {
    case .reg: reg?.flags
    case .pipe: pipe?.flags
    case .tty: tty?.flags
    case .memfd: memfd?.flags
    case .inetsk: isk?.flags
    case .unixsk: usk?.flags
    case .netlinksk: nlsk?.flags
    case .packetsk: psk?.flags
    case .eventfd: efd?.flags
    case .eventpoll: epfd?.flags
    case .signalfd: sgfd?.flags
    case .timerfd: tfd?.flags
    case .inotify: ify?.flags
    case .fanotify: ffy?.flags
    case .ns: nsf?.flags
    case .pidfd: pidfd?.flags
    default: nil
    }
  }
}
