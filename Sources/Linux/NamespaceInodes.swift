import CLinux
import Glibc
import SystemPackage

/// Which namespaces a task lives in: the inode numbers that nsfs has for them, as in `net:[4026531833]` (man 7 namespaces).
///
/// A pidfd tells them (ioctl PIDFD_GET_NET_NAMESPACE and its like, Linux 6.11) in a sixth of the time of a link in `/proc`, for which the
/// kernel makes an inode first. Where it does not, the links are read.
public struct NamespaceInodes: ~Copyable {
  /// A link in `/proc/PID/ns`.
  public enum Kind: String, CaseIterable, Sendable {
    case cgroup, ipc, mnt, net, pid
    case pidForChildren = "pid_for_children"
    case time
    case timeForChildren = "time_for_children"
    case user, uts

    /// As links and messages name it: the kind of namespace, without for whom.
    public var family: String {
      switch self {
      case .pidForChildren: "pid"
      case .timeForChildren: "time"
      default: rawValue
      }
    }

    /// The number of the ioctl: include/uapi/linux/pidfd.h has them in this order.
    var request: Int { 0xff00 + 1 + (Self.allCases.firstIndex(of: self) ?? 0) }
  }

  private let folder: ProcFolder
  private let prefix: String
  private let pidfd: Descriptor?
  private let open: OpenNamespaces?

  /// - Parameters:
  ///   - folder: the task's in `/proc`.
  ///   - prefix: where its links are, such as `ns/`.
  ///   - pidfd: of the task, if there is one.
  ///   - open: where namespaces stay open that more tasks may live in.
  public init(folder: ProcFolder, prefix: String = "ns/", pidfd: consuming Descriptor? = nil, keeping open: OpenNamespaces? = nil) {
    self.folder = folder
    self.prefix = prefix
    self.pidfd = pidfd
    self.open = open
  }

  /// The namespace's inode number. 0: there is none, because the kernel lacks the kind, the task is about to exit, or nobody was born
  /// in a namespace for children yet.
  public func inode(_ kind: Kind) throws(Errno) -> UInt64 {
    if let told = try ask(kind) { return told }
    return try read(kind)
  }

  /// The same for all kinds, in their order.
  public func all() throws(Errno) -> [UInt64] {
    var inodes: [UInt64] = []
    inodes.reserveCapacity(Kind.allCases.count)
    for kind in Kind.allCases { inodes.append(try inode(kind)) }
    // A namespace for children that differs may have no init yet, which only the link tells (kernel/pid_namespace.c:
    // pidns_for_children_get).
    for (own, forChildren) in [(Kind.pid, Kind.pidForChildren), (.time, .timeForChildren)] {
      guard let i = Kind.allCases.firstIndex(of: own), let j = Kind.allCases.firstIndex(of: forChildren), inodes[i] != inodes[j]
      else { continue }
      inodes[j] = try read(forChildren)
    }
    return inodes
  }

  /// `nil`: it cannot be told in this way.
  private func ask(_ kind: Kind) throws(Errno) -> UInt64? {
    switch pidfd {
    case nil: return nil
    case let pidfd?:
      guard Self.canAsk else { return nil }
      let descriptor = cl_syscall(Int(__NR_ioctl), Int(pidfd.rawValue), kind.request, 0, 0, 0, 0)
      guard descriptor >= 0 else { return nil }
      let namespace = Descriptor(Int32(descriptor))
      let inode = UInt64(try fstat(at: namespace.rawValue).st_ino)
      open?.keep(namespace, inode)
      return inode
    }
  }

  private func read(_ kind: Kind) throws(Errno) -> UInt64 {
    let link: [UInt8]
    do throws(Errno) {
      link = try folder.link(prefix + kind.rawValue)
    } catch {
      if error == .noSuchFileOrDirectory { return 0 }
      throw error
    }
    return link.filter { $0 >= 0x30 && $0 <= 0x39 }.reduce(0) { $0 * 10 + UInt64($1 - 0x30) }
  }

  /// Whether pidfds of this kernel tell.
  private static let canAsk: Bool = {
    guard let own = try? pidfdOpen(getpid()) else { return false }
    let descriptor = cl_syscall(Int(__NR_ioctl), Int(own.rawValue), Kind.pid.request, 0, 0, 0, 0)
    if descriptor >= 0 { close(Int32(descriptor)) }
    return descriptor >= 0
  }()
}

/// Namespaces that stay open for a while. The kernel makes an inode for a namespace that nobody has open each time when it is asked
/// for, and finds the one that somebody has (fs/libfs.c: path_from_stashed), in less than half the time.
public final class OpenNamespaces {
  private static let limit = 64
  private var inodes: Set<UInt64> = []
  private var numbers: [Int32] = []

  public init() {}

  deinit { for number in numbers { _ = Descriptor(number) } }

  fileprivate func keep(_ namespace: consuming Descriptor, _ inode: UInt64) {
    guard inodes.count < Self.limit, inodes.insert(inode).inserted else { return }
    numbers.append(namespace.release())
  }
}
