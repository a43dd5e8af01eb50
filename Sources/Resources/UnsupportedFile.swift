import CLinux
import Glibc
import Linux
import SystemPackage

/// Files that no kind of ``fileKinds`` is for, in words for the message that refuses them.
public enum UnsupportedFile {
  /// What the file is, and in parentheses the short word by which the manual lists it: "a listening TCP socket (inet)".
  /// Asks the kernel where the link alone does not say it.
  public static func feature(_ file: DumpedFile) -> String {
    if file.info.flags & UInt32(O_PATH) != 0 { return "a file opened with O_PATH (o-path)" }
    let link = file.linkText
    if link.hasPrefix("anon_inode:") { return anonymous(link.dropFirst("anon_inode:".count)) }
    switch file.format {
    case S_IFSOCK: return socket(file)
    case S_IFCHR: return characterDevice(UInt64(file.stat.st_rdev))
    case S_IFBLK:
      let (major, minor) = deviceNumber(UInt64(file.stat.st_rdev))
      return "the block device \(major):\(minor) (device)"
    default: break
    }
    if let colon = link.firstIndex(of: ":"), file.isAnonymous {
      let name = link[..<colon]
      if namespaces.contains(String(name)) { return "a namespace of the kind \(name) (ns)" }
      if name == "pidfd" { return "a pidfd (pidfd)" }
      return "a file of the kind \(name) (\(name))"
    }
    return "a file of the mode 0\(String(file.stat.st_mode, radix: 8)) (mode)"
  }

  private static let namespaces: Set<String> = [
    "mnt", "pid", "net", "uts", "ipc", "user", "cgroup", "time",
  ]

  /// The names that kernel code gives to anon_inode_getfile; some stand in brackets, some do not.
  private static func anonymous(_ name: Substring) -> String {
    let bare = name.drop { $0 == "[" }.prefix { $0 != "]" }
    switch bare {
    case "inotify", "inotifyfd": return "an inotify instance (inotify)"
    case "fanotify": return "a fanotify group (fanotify)"
    case "pidfd": return "a pidfd (pidfd)"
    case "io_uring": return "an io_uring (io-uring)"
    case "userfaultfd": return "a userfaultfd (userfaultfd)"
    case "perf_event": return "a performance counter (perf-event)"
    case "seccomp notify": return "a listener of seccomp notifications (seccomp-notify)"
    case "landlock-ruleset": return "a Landlock ruleset (landlock)"
    case "fscontext": return "a file system that is being set up (fscontext)"
    case "mount": return "a mount that is not in the tree (mount)"
    case "sync_file", "dmabuf": return "a buffer of a device (dma-buf)"
    case let bpf where bpf.hasPrefix("bpf"): return "a BPF object, \(bpf) (bpf)"
    case let kvm where kvm.hasPrefix("kvm"): return "a virtual machine, \(kvm) (kvm)"
    case let vfio where vfio.hasPrefix("vfio"): return "a device of a virtual machine, \(vfio) (vfio)"
    default: return "a file of the kind \(bare) (\(bare))"
    }
  }

  /// Devices that programs are often found with (Documentation/admin-guide/devices.txt).
  private static func characterDevice(_ device: UInt64) -> String {
    switch deviceNumber(device) {
    case (1, 1): "the physical memory /dev/mem (device)"
    case (1, 11): "the kernel log /dev/kmsg (kmsg)"
    case (5, 2): "a pty master (pty)"
    case (2, _): "a BSD pty master (pty)"
    case (10, 200): "a network tunnel, /dev/net/tun (tun)"
    case (10, 229): "a FUSE connection (fuse)"
    case (10, 232): "the virtual machine monitor /dev/kvm (kvm)"
    case (10, 235): "an automounter's /dev/autofs (autofs)"
    case (13, _): "an input device (input)"
    case (116, _): "a sound device (sound)"
    case (195, _): "a graphics card (gpu)"
    case (226, _): "a graphics card (gpu)"
    case (let major, let minor): "the character device \(major):\(minor) (device)"
    }
  }

  /// Family, type and protocol, asked of a duplicate (man 7 socket).
  private static func socket(_ file: DumpedFile) -> String {
    let duplicate: Descriptor
    do {
      duplicate = try file.duplicate()
    } catch {
      return "a socket that cannot be examined (socket)"
    }
    func option(_ name: Int32) -> Int32 {
      var value: Int32 = -1
      var size = socklen_t(4)
      getsockopt(duplicate.rawValue, SOL_SOCKET, name, &value, &size)
      return value
    }
    let type = option(SO_TYPE)
    let family = option(39 /* SO_DOMAIN */)
    let number = option(38 /* SO_PROTOCOL */)
    let kind =
      switch UInt32(bitPattern: type) {
      case SOCK_STREAM.rawValue: "stream"
      case SOCK_DGRAM.rawValue: "datagram"
      case SOCK_SEQPACKET.rawValue: "seqpacket"
      case SOCK_RAW.rawValue: "raw"
      default: "type-\(type)"
      }
    let isListening = option(SO_ACCEPTCONN) == 1 ? "listening " : ""
    switch family {
    case AF_UNIX: return "a \(isListening)unix \(kind) socket (unix)"
    case AF_INET, AF_INET6:
      let version = family == AF_INET ? "" : " over IPv6"
      switch number {
      case 6: return "a \(isListening)TCP socket\(version) (inet)"
      case 17: return "a UDP socket\(version) (inet)"
      default: return "a \(kind) socket of IP protocol \(number)\(version) (inet)"
      }
    case AF_NETLINK: return "a netlink socket of protocol \(number) (netlink)"
    case AF_PACKET: return "a packet socket (packet)"
    case 38: return "a socket of the kernel's cryptography (af-alg)"
    case 40: return "a \(isListening)socket to a virtual machine (vsock)"
    case 44: return "an XDP socket (xdp)"
    default: return "a \(kind) socket of the family \(family) (socket)"
    }
  }
}
