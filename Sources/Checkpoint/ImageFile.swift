/// A file of an image set: which kind it is, and for most kinds which one of them.
///
/// Numbers are those in the file name: for a task, its PID in the PID namespace of the tree's root; for a
/// namespace, its id; otherwise what the messages refer to. The entries that each kind holds are said beside
/// it.
public enum ImageFile: Hashable, Sendable, BitwiseCopyable {
  // The tree
  /// One ``InventoryEntry``; written last.
  case inventory
  /// ``PstreeEntry`` for each process.
  case pstree
  /// One ``CoreEntry``, of a process or another thread.
  case core(UInt32)
  /// One ``TaskKobjIdsEntry``.
  case ids(UInt32)
  /// One ``SeccompEntry``.
  case seccomp
  /// One ``CgroupEntry``.
  case cgroup
  /// One ``CpuinfoEntry``.
  case cpuinfo

  // Memory
  /// One ``MmEntry``.
  case mm(UInt32)
  /// A ``PagemapHead``, then ``PagemapEntry``.
  case pagemap(UInt32)
  /// The same, of a shared memory segment.
  case pagemapShmem(UInt32)
  /// Raw pages.
  case pages(UInt32)

  // Files
  /// ``FdinfoEntry`` for each descriptor; the number is the `filesId` of the tasks that share the table.
  case fdinfo(UInt32)
  /// ``FileEntry`` for each file description.
  case files
  /// One ``FsEntry``.
  case fs(UInt32)
  /// ``RemapFilePathEntry``.
  case remapFilePath
  /// One ``GhostFileEntry``, then the content.
  case ghostFile(UInt32)
  /// ``FileLockEntry``.
  case fileLocks
  /// ``MemfdInodeEntry``.
  case memfd
  /// ``PipeDataEntry``, each followed by its bytes.
  case pipesData
  /// ``PipeDataEntry``, each followed by its bytes.
  case fifoData
  /// ``SkPacketEntry``, each followed by its bytes.
  case skQueues
  /// One ``TcpStreamEntry``, then both queues; the number is the inode of the socket.
  case tcpStream(UInt32)
  /// ``TtyInfoEntry``.
  case ttyInfo
  /// ``TtyDataEntry``.
  case ttyData

  // Namespaces
  /// One ``PidnsEntry``.
  case pidns(UInt32)
  /// One ``UsernsEntry``.
  case userns(UInt32)
  /// One ``UtsnsEntry``.
  case utsns(UInt32)
  /// One ``TimensEntry``.
  case timens(UInt32)
  /// One ``IpcVarEntry``.
  case ipcVar(UInt32)
  /// ``IpcShmEntry``, each followed by the content of the segment.
  case ipcShm(UInt32)
  /// ``IpcMsgEntry``, each followed by its ``IpcMsg`` with their bytes.
  case ipcMsg(UInt32)
  /// ``IpcSemEntry``, each followed by its values.
  case ipcSem(UInt32)
  /// ``MntEntry``.
  case mountpoints(UInt32)
  /// A compressed tar archive of a tmpfs, by mount id.
  case tmpfs(UInt32)
  /// The same, by device.
  case tmpfsDev(UInt32)
  /// ``NetDeviceEntry``.
  case netdev(UInt32)
  /// One ``NetnsEntry``.
  case netns(UInt32)
  /// The output of `ip address save`, raw; likewise the next ones for `ip route save`, for IPv4 and IPv6, and
  /// `ip rule save`.
  case ifaddr(UInt32)
  case route(UInt32)
  case route6(UInt32)
  case rule(UInt32)
  /// The output of iptables-save, raw; likewise the next ones for ip6tables-save and `nft list ruleset`.
  case iptables(UInt32)
  case ip6tables(UInt32)
  case nftables(UInt32)
  /// Tracked connections, raw; and the next one, those expected.
  case conntrack(UInt32)
  case conntrackExpected(UInt32)

  // About the run of the tool
  /// One ``StatsEntry`` with `dump`.
  case statsDump
  /// One ``StatsEntry`` with `restore`.
  case statsRestore
}

extension ImageFile {
  /// The name in the folder of the image set.
  public var fileName: String {
    switch self {
    case .statsDump: "stats-dump"
    case .statsRestore: "stats-restore"
    case .ghostFile(let id), .tcpStream(let id): stem + String(id, radix: 16) + ".img"
    case .tmpfs(let id), .tmpfsDev(let id): stem + String(id) + ".tar.gz.img"
    default: stem + (number.map { String($0) } ?? "") + ".img"
    }
  }

  /// The words that the file begins with: none for raw files, one for the inventory, two for all others.
  public var magic: (first: UInt32?, second: UInt32?) {
    guard let word else { return (nil, nil) }
    switch self {
    case .inventory: return (word, nil)
    case .statsDump, .statsRestore: return (Self.serviceMagic, word)
    default: return (Self.commonMagic, word)
    }
  }

  /// By kind, then by number.
  var order: UInt64 {
    let (stem, number, word) = description
    // Raw kinds have no word of their own.
    let kind = word ?? stem.utf8.reduce(0) { $0 &* 31 &+ UInt32($1) }
    return UInt64(kind) << 32 | UInt64(number ?? 0)
  }

  private static var commonMagic: UInt32 { 0x5456_4319 }
  private static var serviceMagic: UInt32 { 0x5510_5940 }

  private var stem: String { description.stem }
  private var word: UInt32? { description.word }
  private var number: UInt32? { description.number }

  /// What the format says about each kind, one line each: how the name begins, the number in it, the magic
  /// word.
  private var description: (stem: String, number: UInt32?, word: UInt32?) {
    switch self {
    case .inventory: ("inventory", nil, 0x5831_3116)
    case .pstree: ("pstree", nil, 0x5027_3030)
    case .core(let pid): ("core-", pid, 0x5505_3847)
    case .ids(let pid): ("ids-", pid, 0x5443_2030)
    case .seccomp: ("seccomp", nil, 0x6441_3049)
    case .cgroup: ("cgroup", nil, 0x5938_3330)
    case .cpuinfo: ("cpuinfo", nil, 0x6140_4013)

    case .mm(let pid): ("mm-", pid, 0x5749_2820)
    case .pagemap(let pid): ("pagemap-", pid, 0x5608_4025)
    case .pagemapShmem(let id): ("pagemap-shmem-", id, 0x5608_4025)
    case .pages(let id): ("pages-", id, nil)

    case .fdinfo(let id): ("fdinfo-", id, 0x5621_3732)
    case .files: ("files", nil, 0x5630_3138)
    case .fs(let pid): ("fs-", pid, 0x5140_3912)
    case .remapFilePath: ("remap-fpath", nil, 0x5913_3954)
    case .ghostFile(let id): ("ghost-file-", id, 0x5258_3605)
    case .fileLocks: ("filelocks", nil, 0x5432_3616)
    case .memfd: ("memfd", nil, 0x4845_3499)
    case .pipesData: ("pipes-data", nil, 0x5645_3709)
    case .fifoData: ("fifo-data", nil, 0x5933_3054)
    case .skQueues: ("sk-queues", nil, 0x5626_4026)
    case .tcpStream(let inode): ("tcp-stream-", inode, 0x5146_5506)
    case .ttyInfo: ("tty-info", nil, 0x5945_3036)
    case .ttyData: ("tty-data", nil, 0x5941_3026)

    case .pidns(let id): ("pidns-", id, 0x6115_7326)
    case .userns(let id): ("userns-", id, 0x5547_4906)
    case .utsns(let id): ("utsns-", id, 0x5447_3203)
    case .timens(let id): ("timens-", id, 0x4311_4433)
    case .ipcVar(let id): ("ipcns-var-", id, 0x5311_5007)
    case .ipcShm(let id): ("ipcns-shm-", id, 0x4628_3044)
    case .ipcMsg(let id): ("ipcns-msg-", id, 0x5545_3737)
    case .ipcSem(let id): ("ipcns-sem-", id, 0x5957_3019)
    case .mountpoints(let id): ("mountpoints-", id, 0x5556_3928)
    case .tmpfs(let id): ("tmpfs-", id, nil)
    case .tmpfsDev(let id): ("tmpfs-dev-", id, nil)
    case .netdev(let id): ("netdev-", id, 0x5737_3951)
    case .netns(let id): ("netns-", id, 0x5593_3752)
    case .ifaddr(let id): ("ifaddr-", id, nil)
    case .route(let id): ("route-", id, nil)
    case .route6(let id): ("route6-", id, nil)
    case .rule(let id): ("rule-", id, nil)
    case .iptables(let id): ("iptables-", id, nil)
    case .ip6tables(let id): ("ip6tables-", id, nil)
    case .nftables(let id): ("nftables-", id, nil)
    case .conntrack(let id): ("netns-ct-", id, nil)
    case .conntrackExpected(let id): ("netns-exp-", id, nil)

    case .statsDump, .statsRestore: ("stats", nil, 0x5709_3306)
    }
  }
}
