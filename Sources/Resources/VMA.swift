import CLinux
import Checkpoint
import Glibc
import Linux

/// The kinds of a mapping, as the bits of `vma_entry.status`.
struct VMAStatus: OptionSet {
  let rawValue: UInt32
  static let regular = VMAStatus(rawValue: 1 << 0)
  static let vsyscall = VMAStatus(rawValue: 1 << 2)
  static let vdso = VMAStatus(rawValue: 1 << 3)
  static let heap = VMAStatus(rawValue: 1 << 5)
  static let privateFile = VMAStatus(rawValue: 1 << 6)
  static let sharedFile = VMAStatus(rawValue: 1 << 7)
  static let sharedAnonymous = VMAStatus(rawValue: 1 << 8)
  static let privateAnonymous = VMAStatus(rawValue: 1 << 9)
  static let systemV = VMAStatus(rawValue: 1 << 10)
  static let socket = VMAStatus(rawValue: 1 << 11)
  static let vvar = VMAStatus(rawValue: 1 << 12)
  static let aioRing = VMAStatus(rawValue: 1 << 13)
  static let memfd = VMAStatus(rawValue: 1 << 14)
  static let shadowStack = VMAStatus(rawValue: 1 << 15)
  static let guardPages = VMAStatus(rawValue: 1 << 16)
  static let uprobes = VMAStatus(rawValue: 1 << 17)
  /// What is not memory that a restore can make from the images.
  static let unsupported: VMAStatus = [.socket, .aioRing, .shadowStack, .uprobes]
}

extension VmaEntry {
  var kinds: VMAStatus {
    get { VMAStatus(rawValue: status) }
    set { status = newValue.rawValue }
  }

  /// Bytes.
  var length: UInt64 { end - start }

  /// Whether the image has pages of its own for it. `index` goes along with ascending mappings.
  func hasSome(of pages: RecordedPages, _ index: inout Int) -> Bool {
    while index < pages.count, pages[index].range.upperBound <= start { index += 1 }
    return isPrivate && index < pages.count && pages[index].range.lowerBound < end
  }

  /// Made by the kernel itself, not by mmap.
  var isKernelMade: Bool { !kinds.isDisjoint(with: [.vsyscall, .vdso, .vvar]) }

  var isFile: Bool { !kinds.isDisjoint(with: [.privateFile, .sharedFile]) }

  /// What stays the same for a mapping that a child inherits.
  struct Identity: Hashable {
    var start: UInt64
    var end: UInt64
    var offset: UInt64
    var file: UInt64
    var flags: UInt32
    var status: UInt32
  }

  /// Locks are not inherited (man 2 mlock), so they do not count.
  var identity: Identity {
    Identity(start: start, end: end, offset: pgoff, file: shmid, flags: flags & ~MAP_LOCKED, status: status)
  }

  /// Whether its pages are its own and in `pages-N.img`.
  var isPrivate: Bool { flags & UInt32(MAP_PRIVATE) != 0 }
}

/// The advice of madvise(2) that smaps shows, each with the bit that it has in `vma_entry.madv`.
let lastingAdvice: [(flag: VMFlags, advice: Int)] = [
  (.random, 1), (.sequential, 2), (.dontCopy, 10), (.mergeable, 12), (.hugePage, 14), (.noHugePage, 15),
  (.dontDump, 16), (.wipeOnFork, 18),
]

extension Mapping {
  /// Why it cannot be dumped, in a few words; `nil` if it can.
  var objection: String? {
    if name.isEmpty, flags.isDisjoint(with: Self.suspicious) { return nil }
    let text = name.text
    if flags.contains(.shadowStack) { return "a shadow stack (shadow-stack)" }
    if flags.contains(.sealed) && !isKernelMade { return "a sealed mapping (mseal)" }
    if !flags.isDisjoint(with: [.userfaultMissing, .userfaultMinor, .userfaultWriteProtect]) {
      return "a mapping that is registered with userfaultfd (userfaultfd)"
    }
    if text.hasPrefix("/[aio]") { return "an AIO ring (aio)" }
    if text.hasPrefix("anon_inode:") { return "a mapping of \(text) (anon-inode)" }
    if text == "[uprobes]" { return "a uprobes area (uprobes)" }
    if text.hasPrefix("socket:") { return "a mapped socket (packet-socket)" }
    if !isKernelMade, !flags.isDisjoint(with: [.io, .pfnMap, .mixedMap]), !text.hasPrefix("/dev/zero") {
      return "a mapping of a device, \(text) (device-memory)"
    }
    return nil
  }

  /// A System V shared memory segment; its identifier is the inode number (ipc/shm.c: newseg).
  var isSystemV: Bool { isShared && major == 0 && name.starts(with: "/SYSV".utf8) && name.count == 23 }

  /// What may be said against a mapping without a name.
  private static let suspicious: VMFlags = [
    .shadowStack, .sealed, .userfaultMissing, .userfaultMinor, .userfaultWriteProtect, .io, .pfnMap, .mixedMap,
  ]

  /// What an entry says of a mapping besides its place and kind.
  private static let recorded: VMFlags = lastingAdvice.reduce([
    .growsDown, .noReserve, .locked, .lockOnFault, .dropPages, .hugeTLB,
  ]) { $0.union($1.flag) }

  var isKernelMade: Bool {
    name.first == UInt8(ascii: "[") && (name.starts(with: "[v".utf8)) && isVirtualName
  }

  private var isVirtualName: Bool {
    let text = name.text
    return text == "[vdso]" || text == "[vvar]" || text == "[vvar_vclock]" || text == "[vsyscall]"
  }

  /// The entry, all but the file behind it.
  var entry: VmaEntry {
    var e = VmaEntry()
    e.start = start
    e.end = end
    e.prot = protection
    e.fd = -1
    // Most of those that a program has in thousands.
    if name.isEmpty, !isShared, !isFile, flags.isDisjoint(with: Self.recorded) {
      e.flags = UInt32(MAP_PRIVATE | MAP_ANONYMOUS)
      e.kinds = [.regular, .privateAnonymous]
      return e
    }
    var kinds: VMAStatus = .regular
    var mapFlags = isShared ? UInt32(MAP_SHARED) : UInt32(MAP_PRIVATE)
    let text = name.text
    let anonymousName = text.hasPrefix("[anon:") ? name.dropFirst(6).dropLast() : []
    switch text {
    case "[vdso]": kinds.insert([.vdso, .privateAnonymous])
    case "[vvar]", "[vvar_vclock]": kinds.insert([.vvar, .privateAnonymous])
    case "[vsyscall]": kinds = [.vsyscall, .privateAnonymous]
    default:
      if text.hasPrefix("/dev/zero (deleted)") && isShared || text.hasPrefix("[anon_shmem:") {
        kinds.insert(.sharedAnonymous)
        e.shmid = inode
      } else if flags.contains(.hugeTLB) && text.hasPrefix("/anon_hugepage") {
        kinds.insert(isShared ? .sharedAnonymous : .privateAnonymous)
        if isShared { e.shmid = inode }
        mapFlags |= MAP_HUGETLB | HugePages.sizeFlags(Int(kernelPageSizeKB) * 1024)
      } else if isSystemV {
        kinds.insert(.systemV)
        e.shmid = inode
        e.pgoff = offset
        e.fdflags = flags.contains(.mayWrite) ? UInt32(O_RDWR) : UInt32(O_RDONLY)
      } else if isFile {
        kinds.insert(isShared ? .sharedFile : .privateFile)
        e.pgoff = offset
        e.fdflags = isShared && flags.contains(.mayWrite) ? UInt32(O_RDWR) : UInt32(O_RDONLY)
      } else {
        kinds.insert(.privateAnonymous)
        if text == "[heap]" { kinds.insert(.heap) }
      }
    }
    if !kinds.isDisjoint(with: [.privateAnonymous, .sharedAnonymous]) { mapFlags |= UInt32(MAP_ANONYMOUS) }
    if flags.contains(.growsDown) { mapFlags |= MAP_GROWSDOWN }
    if flags.contains(.noReserve) { mapFlags |= MAP_NORESERVE }
    if flags.contains(.locked) { mapFlags |= MAP_LOCKED }
    e.flags = mapFlags
    e.kinds = kinds
    var advice: UInt64 = 0
    if !kinds.contains(.vdso) && !kinds.contains(.vsyscall) {
      for (flag, number) in lastingAdvice where flags.contains(flag) { advice |= 1 << UInt64(number) }
    }
    if advice != 0 { e.madv = advice }
    if flags.contains(.lockOnFault) { e.vmFlags = 1 }
    if flags.contains(.dropPages) { e.vmFlags = (e.vmFlags ?? 0) | 8 }
    if !anonymousName.isEmpty { e.anonName = Array(anonymousName) }
    return e
  }
}
