import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// A process's mappings and the fields of its mm: where code, data, heap, stack, arguments and environment lie, the auxiliary
/// vector, and the executable (man 2 mmap; man 2 prctl, PR_SET_MM_MAP).
public struct AddressSpace: TaskState {
  private let brk: SyscallProgram.Call
  private let dumpable: SyscallProgram.Call
  private let transparentHugePages: SyscallProgram.Call
  private let auxv: SyscallProgram.Buffer
  private let auxvSize: SyscallProgram.Call

  public init(asking program: inout SyscallProgram, in thread: DumpedThread) {
    brk = program.call(__NR_brk, 0, for: "reading the program break")
    dumpable = program.call(__NR_prctl, 3 /* PR_GET_DUMPABLE */, for: "reading the dumpable flag")
    transparentHugePages = program.call(
      __NR_prctl, 42 /* PR_GET_THP_DISABLE */, 0, 0, 0, 0, for: "reading the THP flag")
    auxv = program.reserve(1024)
    // Before Linux 6.4 the kernel does not tell.
    auxvSize = program.call(
      __NR_prctl, 0x4155_5856 /* PR_GET_AUXV */, Argument(auxv.address), Argument(auxv.count), 0, 0, mayFail: true)
  }

  public func record(from slot: Slot, of thread: DumpedThread, into core: inout CoreEntry) throws(Failure) {
    guard let task = thread.task else { return }
    let auxv: [UInt64]
    let size = Int(slot.result(auxvSize))
    if size > 0, size <= self.auxv.count {
      auxv = Self.pairs(UnsafeRawBufferPointer(rebasing: slot.bytes(self.auxv)[..<size]))
    } else {
      let buffer = ReadBuffer()
      auxv = try about("\(task.description): reading auxv") { () throws(Errno) in Self.pairs(try task.directory.read("auxv", buffer)) }
    }
    task.told = Told(
      auxv: auxv, brk: UInt64(bitPattern: slot.result(brk)), dumpable: Int32(truncatingIfNeeded: slot.result(dumpable)),
      transparentHugePages: slot.result(transparentHugePages))
  }

  /// What only the task itself can tell of its memory. Others look for its pages meanwhile.
  final class Told {
    private let auxv: [UInt64]
    private let brk: UInt64
    private let dumpable: Int32
    private let transparentHugePages: Int64

    init(auxv: [UInt64], brk: UInt64, dumpable: Int32, transparentHugePages: Int64) {
      self.auxv = auxv
      self.brk = brk
      self.dumpable = dumpable
      self.transparentHugePages = transparentHugePages
    }

    func complete(_ memory: inout MmEntry) {
      memory.mmSavedAuxv = auxv
      memory.mmBrk = brk
      memory.dumpable = dumpable
      // 1, and the flags that the call was made with.
      memory.thpDisabled = transparentHugePages != 0
      if transparentHugePages > 1 { memory.thpDisableFlags = UInt32(truncatingIfNeeded: transparentHugePages & ~1) }
    }
  }

  /// The auxiliary vector's pairs up to AT_NULL; what follows is padding, which other readers have no room for.
  private static func pairs(_ bytes: UnsafeRawBufferPointer) -> [UInt64] {
    let words = stride(from: 0, to: bytes.count - 7, by: 8).map { bytes.loadUnaligned(fromByteOffset: $0, as: UInt64.self) }
    let end = stride(from: 0, to: words.count, by: 2).first { words[$0] == 0 } ?? words.count
    return Array(words[..<end])
  }

  /// What of a task's memory cannot be dumped.
  public static func objections(_ task: DumpedTask) -> [String] {
    // One by one where they are: a copy would count references.
    task.mappings.indices.compactMap { i in
      task.mappings[i].objection.map { "\(task.description): memory at 0x\(String(task.mappings[i].start, radix: 16)): \($0)" }
    }
  }

  /// Records what can be seen from outside.
  public static func record(_ task: DumpedTask, _ dump: DumpContext) throws(Failure) {
    let layout = task.stat.memory
    task.memory.mmStartCode = layout.startCode
    task.memory.mmEndCode = layout.endCode
    task.memory.mmStartData = layout.startData
    task.memory.mmEndData = layout.endData
    task.memory.mmStartStack = layout.startStack
    task.memory.mmStartBrk = layout.startBrk
    task.memory.mmArgStart = layout.argStart
    task.memory.mmArgEnd = layout.argEnd
    task.memory.mmEnvStart = layout.envStart
    task.memory.mmEnvEnd = layout.envEnd
    task.memory.exeFileId = try named(task, "exe", flags: O_RDONLY, dump).id
    var entries: [VmaEntry] = []
    entries.reserveCapacity(task.mappings.count)
    for mapping in task.mappings {
      var entry = mapping.entry
      if entry.isFile {
        entry.shmid = UInt64(try file(behind: mapping, entry, task, dump, &entry.status))
      } else if entry.kinds.contains(.sharedAnonymous) {
        entry.pgoff = mapping.offset
        if dump.shmems.isNew(inode: mapping.inode) { dump.sharedSegments.append((task.pid, mapping)) }
      }
      // The kernel shows [vvar] and [vvar_vclock]; the format has one mapping for both.
      if entry.kinds.contains(.vvar), let last = entries.last, last.kinds.contains(.vvar),
        last.end == entry.start
      {
        entries[entries.count - 1].end = entry.end
      } else {
        entries.append(entry)
      }
    }
    task.memory.vmas = entries
    // A snapshot looks at them once more, when the tree runs on.
    if !dump.options.snapshot { task.mappings = [] }
  }

  /// A file that the task has without a descriptor: its executable, its directories.
  static func named(_ task: DumpedTask, _ link: String, flags: Int32, _ dump: DumpContext)
    throws(Failure) -> (id: UInt32, stat: stat)
  {
    try about("\(task.description): \(link)") { () throws(Failure) -> (id: UInt32, stat: stat) in
      var file = try about("reading the link") { () throws(Errno) in
        DumpedFile(
          pid: task.pid, number: -1, procPath: link, link: try task.directory.link(link),
          stat: try task.directory.folder.status(link))
      }
      file.info.flags = UInt32(flags)
      try file.findMount(task, dump)
      return (try dump.files.id(ofNamed: file, kind: RegularFile.self, dump), file.stat)
    }
  }

  private static func file(
    behind mapping: Mapping, _ entry: VmaEntry, _ task: DumpedTask, _ dump: DumpContext,
    _ status: inout UInt32
  ) throws(Failure) -> UInt32 {
    let key = DumpContext.MappedFile(
      major: mapping.major, minor: mapping.minor, inode: mapping.inode, flags: entry.fdflags ?? 0,
      name: mapping.name, namespace: task.namespace(MountNamespace.self)?.id ?? 0)
    if let known = dump.mappedFiles[key] {
      if known.isMemfd { status |= VMAStatus.memfd.rawValue }
      return known.id
    }
    let path = "map_files/\(String(mapping.start, radix: 16))-\(String(mapping.end, radix: 16))"
    return try about("\(task.description): the file mapped at 0x\(String(mapping.start, radix: 16))") {
      () throws(Failure) in
      var file = try about(path) { () throws(Errno) in
        DumpedFile(
          pid: task.pid, number: -1, procPath: path, link: try task.directory.link(path),
          stat: try task.directory.folder.status(path))
      }
      file.info.flags = entry.fdflags ?? 0
      try file.findMount(task, dump)
      guard let kind = fileKinds.first(where: { $0.matches(file) }) else {
        throw Failure("\(file.linkText) cannot be mapped again")
      }
      let id = try dump.files.id(ofNamed: file, kind: kind, dump)
      let isMemfd = kind.type == .memfd
      if isMemfd { status |= VMAStatus.memfd.rawValue }
      dump.mappedFiles[key] = (id, isMemfd)
      return id
    }
  }

  // MARK: Restore

  /// Checks a process's mappings before anything is made: ranges, kinds, files.
  public static func check(_ task: RestoredTask, _ restore: RestoreContext) throws(Failure) {
    let image = "mm-\(task.pid).img"
    var end: UInt64 = 0
    for vma in task.memory.vmas {
      var place: String { "\(image): mapping 0x\(String(vma.start, radix: 16))-0x\(String(vma.end, radix: 16))" }
      let isGuard = vma.kinds.contains(.guardPages)
      guard vma.start < vma.end, vma.start % 4096 == 0, vma.end % 4096 == 0, vma.start >= end || isGuard else {
        throw Failure("\(place) is empty, not of whole pages, or overlaps the one before")
      }
      if isGuard, vma.end <= userSpaceEnd { continue }
      end = vma.end
      if vma.kinds.contains(.vsyscall) { continue }
      guard vma.end <= userSpaceEnd else { throw Failure("\(place) is outside of the user's address space") }
      guard vma.pgoff % 4096 == 0, vma.pgoff <= 1 << 62 else { throw Failure("\(place) is of a file from byte \(vma.pgoff) on (pgoff)") }
      guard vma.kinds.isDisjoint(with: .unsupported) else {
        throw Failure("\(place): mappings of this kind (status \(vma.status)) cannot be restored yet")
      }
      if vma.kinds.contains(.systemV) { try SystemVSharedMemory.check(vma, of: task, place, restore) }
      if vma.isFile {
        try restore.check(UInt32(truncatingIfNeeded: vma.shmid), for: place)
      }
    }
    guard task.memory.vmas.contains(where: { $0.kinds.contains(.vdso) }) else {
      throw Failure("\(image): there is no vDSO mapping; a task without one cannot be restored")
    }
    try restore.check(task.memory.exeFileId, for: image)
  }

  /// The end of the part of the address space that a program can map (TASK_SIZE_MAX of x86-64).
  public static let userSpaceEnd: UInt64 = 0x7fff_ffff_f000

  static func concede(_ task: RestoredTask, to stub: StubState, _ may: Privileges) -> [String] {
    var denied: [String] = []
    if task.memory.dumpable == 0, !may.capabilities.contains(.sysPtrace) {
      denied.append("the dumpable flag 0, under which this user cannot give it its registers: needs CAP_SYS_PTRACE")
      task.memory.dumpable = 1
    }
    let locked = task.memory.vmas.indices.filter { task.memory.vmas[$0].flags & MAP_LOCKED != 0 }
    let bytes = locked.reduce(0) { $0 + task.memory.vmas[$1].length }
    if bytes > stub.limits[8 /* RLIMIT_MEMLOCK */].0, !may.machine.contains(.ipcLock) {
      denied.append("\(bytes) bytes of locked memory, here \(stub.limits[8].0) may be: needs CAP_IPC_LOCK")
      for i in locked { task.memory.vmas[i].flags &= ~MAP_LOCKED }
    }
    return denied
  }

  /// Appends the calls that map everything but what the kernel makes itself, with the content. What a stub has from its donor
  /// and can keep stays (``inherited(_:)``); `spared` are ranges that nobody may unmap.
  public static func restore(
    _ task: RestoredTask, sparing spared: [Range<UInt64>], _ restore: RestoreContext, _ sequence: inout ProgramSequence
  ) throws(Failure) {
    let kept = task.filling?.kept ?? inherited(task)
    if task.filling == nil { clear(task, kept, sparing: spared, &sequence) }
    let pages = task.recordedPages()
    // What it has of its donor's pages already needs no writing.
    let unshared = task.donor.map { pages.without(sharedWith: $0.pid) } ?? pages
    var (index, unsharedIndex) = (0, 0)
    var opened: [VmaEntry] = []
    for vma in task.memory.vmas where !vma.isKernelMade && !vma.kinds.contains(.guardPages) {
      if let filling = task.filling, filling.contains(vma.start) { continue }
      let isWritten = kept[vma.start] == nil ? vma.hasSome(of: pages, &index) : vma.hasSome(of: unshared, &unsharedIndex)
      let protection = isWritten ? vma.prot | UInt32(PROT_WRITE) : vma.prot
      if protection != vma.prot { opened.append(vma) }
      if let inherited = kept[vma.start] {
        if inherited == protection { continue }
        sequence.makeRoom(calls: 1)
        sequence.current.call(
          __NR_mprotect, Argument(vma.start), Argument(vma.length), Argument(protection), for: "opening", vma.start)
      } else if vma.kinds.contains(.systemV) {
        SystemVSharedMemory.attach(vma, &sequence)
      } else {
        try map(vma, protection, task, restore, &sequence)
      }
    }
    if let donor = task.donor { drop(pagesOf: donor, notIn: task, kept, &sequence) }
    readPages(task, kept, restore, &sequence)
    for vma in opened {
      sequence.makeRoom(calls: 1)
      sequence.current.call(
        __NR_mprotect, Argument(vma.start), Argument(vma.length), Argument(vma.prot), for: "protecting", vma.start)
    }
  }

  /// Appends the calls that make room for a large task's memory, before ``restore(_:sparing:_:_:)`` does the rest. `hasChildren`: all
  /// of its children are born. Others would be born with its executable, and could not get theirs while they share pages of it.
  public static func reserve(
    _ task: RestoredTask, sparing spared: [Range<UInt64>], hasChildren: Bool, _ restore: RestoreContext,
    _ sequence: inout ProgramSequence
  ) throws(Failure) {
    guard let filling = task.filling else { return }
    clear(task, filling.kept, sparing: spared, &sequence)
    if hasChildren { try restoreFields(task, restore, &sequence) }
    filling.reserve(task, &sequence)
  }

  private static func clear(
    _ task: RestoredTask, _ kept: Inherited, sparing spared: [Range<UInt64>], _ sequence: inout ProgramSequence
  ) {
    if let donor = task.donor { unmap(allBut: kept, spared, of: donor, &sequence) }
  }

  /// Appends what must wait until no child is born with this memory any more: advice and locks.
  public static func finish(_ task: RestoredTask, _ sequence: inout ProgramSequence) {
    for vma in task.memory.vmas where !vma.isKernelMade { advise(vma, &sequence) }
  }

  // MARK: Copy-on-write

  /// Mappings that a stub was born with and that can stay: their protection there, by their start.
  typealias Inherited = [UInt64: UInt32]

  private static let fewBytes: UInt64 = 32 << 10

  /// Those that the donor has too, if the task shared pages of them with it, or the donor has no pages in them, or if they are small:
  /// then its pages are copied when the task writes its own. What is left as it is costs no call; to map it again takes the kernel
  /// longer than that.
  static func inherited(_ task: RestoredTask) -> Inherited {
    guard let donor = task.donor else { return [:] }
    let pages = task.recordedPages()
    let shared = pages.filter { $0.sharedWith == donor.pid }.map(\.range.lowerBound)
    let theirs = donor.memory.vmas
    let donorPages = donor.recordedPages()
    var kept: Inherited = [:]
    var (nextShared, nextTheirs, nextPages, nextOwn) = (0, 0, 0, 0)
    for vma in task.memory.vmas where vma.isPrivate && !vma.isKernelMade && !vma.kinds.contains(.guardPages) {
      while nextShared < shared.count, shared[nextShared] < vma.start { nextShared += 1 }
      while nextTheirs < theirs.count, theirs[nextTheirs].start < vma.start || theirs[nextTheirs].kinds.contains(.guardPages) {
        nextTheirs += 1
      }
      guard nextTheirs < theirs.count, theirs[nextTheirs].identity == vma.identity else { continue }
      let other = theirs[nextTheirs]
      let hasPages = other.hasSome(of: donorPages, &nextPages)
      let isShared = nextShared < shared.count && shared[nextShared] < vma.end
      // What is large and empty there, and not here, is filled quickest where it is new.
      let isToBeFilled = vma.isPlainMemory && vma.length > Filling.least && vma.hasSome(of: pages, &nextOwn)
      let isSmall = hasPages ? vma.length <= fewBytes : !isToBeFilled
      guard isShared || isSmall && other.vmFlags == vma.vmFlags && vma.flags & MAP_HUGETLB == 0 else { continue }
      kept[vma.start] = other.prot
    }
    return kept
  }

  private static func unmap(
    allBut kept: Inherited, _ spared: [Range<UInt64>], of donor: RestoredTask, _ sequence: inout ProgramSequence
  ) {
    var islands = donor.memory.vmas.filter { kept[$0.start] != nil }.map { $0.start..<$0.end } + spared
    islands.sort { $0.lowerBound < $1.lowerBound }
    var others = donor.memory.vmas.lazy.filter { kept[$0.start] == nil && !$0.kinds.contains(.guardPages) }.makeIterator()
    var other = others.next()
    // Below vm.mmap_min_addr there is nothing.
    var from: UInt64 = 0x1000
    for island in islands + [userSpaceEnd..<userSpaceEnd] {
      while let end = other?.end, end <= from { other = others.next() }
      if let start = other?.start, start < island.lowerBound, island.lowerBound > from {
        sequence.makeRoom(calls: 1)
        sequence.current.call(
          __NR_munmap, Argument(from), Argument(island.lowerBound - from), for: "unmapping what its parent had from", from)
      }
      from = max(from, island.upperBound)
    }
  }

  /// Pages that the donor has and the task does not.
  private static func drop(
    pagesOf donor: RestoredTask, notIn task: RestoredTask, _ kept: Inherited, _ sequence: inout ProgramSequence
  ) {
    let ranges = task.memory.vmas.filter { kept[$0.start] != nil }.map { $0.start..<$0.end }
    let own = task.recordedPages().map(\.range)
    var next = 0
    for range in Pages.intersection(ranges, donor.recordedPages().map(\.range)) {
      while next < own.count, own[next].upperBound <= range.lowerBound { next += 1 }
      for gap in Pages.difference(range, own[next...].prefix { $0.lowerBound < range.upperBound }) {
        sequence.makeRoom(calls: 1)
        sequence.current.call(
          __NR_madvise, Argument(gap.lowerBound), Argument(gap.upperBound - gap.lowerBound), 4 /* MADV_DONTNEED */,
          for: "dropping its parent's pages at", gap.lowerBound)
      }
    }
  }

  private static func map(
    _ vma: VmaEntry, _ protection: UInt32, _ task: RestoredTask, _ restore: RestoreContext,
    _ sequence: inout ProgramSequence
  ) throws(Failure) {
    var place: String { "task \(task.pid): mapping 0x\(String(vma.start, radix: 16))" }
    // What mmap takes of the recorded flags; MAP_LOCKED comes later, when the pages are there.
    var flags =
      vma.flags & (0x0f | UInt32(MAP_ANONYMOUS) | MAP_GROWSDOWN | MAP_NORESERVE | MAP_HUGETLB | 0xfc00_0000)
    flags |= UInt32(MAP_FIXED)
    if (vma.vmFlags ?? 0) & 8 != 0 { flags = flags & ~0x0f | MAP_DROPPABLE }
    var source: Int32?
    if vma.isFile {
      source = try MemFD.writable(behind: vma, restore)
      if source == nil { source = try restore.descriptor(behind: vma, for: place) }
    } else if vma.kinds.contains(.sharedAnonymous) {
      source = try RestoredSharedMemory.anonymous(
        vma.shmid, size: restore.sharedMemorySizes[vma.shmid] ?? vma.length,
        huge: vma.flags & (MAP_HUGETLB | 0xfc00_0000), restore)
    }
    sequence.makeRoom(calls: 2)
    var fd: Argument = -1
    if let source {
      flags &= ~UInt32(MAP_ANONYMOUS)
      fd = sequence.fetch(source, restore)
    }
    sequence.current.call(
      __NR_mmap, Argument(vma.start), Argument(vma.length), Argument(protection), Argument(flags), fd,
      Argument(source == nil ? 0 : vma.pgoff), for: "mapping", vma.start)
  }

  private static func readPages(
    _ task: RestoredTask, _ kept: Inherited, _ restore: RestoreContext, _ sequence: inout ProgramSequence
  ) {
    let keptRanges = task.memory.vmas.filter { kept[$0.start] != nil }.map { $0.start..<$0.end }
    var index = 0
    // The vDSO's pages come first in no layout; they are skipped where they are.
    var offset: UInt64 = 0
    var run: [Range<UInt64>] = []
    var (start, end): (UInt64, UInt64) = (0, 0)
    let file = ImageFile.pages(task.pagesID).fileName
    var opened = (program: 0, fd: Argument(-1))
    func descriptor(_ sequence: inout ProgramSequence) -> Argument {
      if opened.program != sequence.number {
        let path = sequence.current.place(path: Array(file.utf8))
        let fd = sequence.current.call(
          __NR_openat, Argument(restore.service.images), Argument(path), Argument(O_RDONLY | O_NOFOLLOW | O_CLOEXEC),
          for: "opening its pages image")
        opened = (sequence.number, .result(fd))
      }
      return opened.fd
    }
    func flush(_ sequence: inout ProgramSequence) {
      Prefault(run, of: task, restore.options).append(descriptor: descriptor, &sequence)
      Pages.transfer(__NR_preadv, run, from: start, descriptor: descriptor, &sequence, for: "reading its memory to")
      run = []
    }
    for (range, sharedWith) in task.recordedPages() {
      while index < keptRanges.count, keptRanges[index].upperBound <= range.lowerBound { index += 1 }
      let isThere =
        sharedWith != nil && sharedWith == task.donor?.pid && index < keptRanges.count
        && keptRanges[index].lowerBound <= range.lowerBound
      if isThere || task.isKernelMade(range.lowerBound) {
        flush(&sequence)
      } else {
        for part in task.filling?.rest(of: range) ?? [range] {
          let place = offset + part.lowerBound - range.lowerBound
          if place != end { flush(&sequence) }
          if run.isEmpty { start = place }
          run.append(part)
          end = place + part.upperBound - part.lowerBound
        }
      }
      offset += range.upperBound - range.lowerBound
    }
    flush(&sequence)
  }

  private static func advise(_ vma: VmaEntry, _ sequence: inout ProgramSequence) {
    sequence.makeRoom(calls: lastingAdvice.count + 2, bytes: 96)
    if vma.kinds.contains(.guardPages) {
      sequence.current.call(
        __NR_madvise, Argument(vma.start), Argument(vma.length), 102 /* MADV_GUARD_INSTALL */,
        for: "guarding", vma.start)
      return
    }
    for (_, advice) in lastingAdvice where (vma.madv ?? 0) & (1 << UInt64(advice)) != 0 {
      sequence.current.call(
        __NR_madvise, Argument(vma.start), Argument(vma.length), Argument(advice),
        for: "advising on the mapping at",
        vma.start)
    }
    if vma.flags & MAP_LOCKED != 0 {
      // What cannot be brought in, such as memory without access, is an error; the mapping is locked all the same (man 2 mlock).
      sequence.current.call(
        __NR_mlock2, Argument(vma.start), Argument(vma.length), Argument((vma.vmFlags ?? 0) & 1),
        mayFail: vma.prot & 3 == 0, for: "locking", vma.start)
    }
    if let name = vma.anonName {
      let address = sequence.current.place(path: Array(name.prefix(79)))
      // PR_SET_VMA, PR_SET_VMA_ANON_NAME; a kernel without CONFIG_ANON_VMA_NAME has no names to keep.
      sequence.current.call(
        __NR_prctl, 0x53_564d_41, 0, Argument(vma.start), Argument(vma.length), Argument(address),
        mayFail: true)
    }
  }

  /// Appends the call that sets the fields of the mm, unless it has been made. No mapping of the old executable may be left, which the
  /// kernel looks for among all that there are: so a large task does it while there are few.
  public static func restoreFields(
    _ task: RestoredTask, _ restore: RestoreContext, _ sequence: inout ProgramSequence
  )
    throws(Failure)
  {
    if task.hasFields { return }
    task.hasFields = true
    let m = task.memory
    let exe = try restore.descriptor(m.exeFileId, for: "task \(task.pid): its executable")
    sequence.makeRoom(calls: 4, bytes: m.mmSavedAuxv.count * 8 + 256)
    let fd = sequence.fetch(exe, restore)
    let auxv = m.mmSavedAuxv.withUnsafeBytes { sequence.current.place($0) }
    // The descriptor's number is part of the structure, so it must be one that is known beforehand.
    let number = task.scratchDescriptor
    sequence.current.call(__NR_dup3, fd, Argument(number), Argument(O_CLOEXEC), for: "placing its executable")
    // struct prctl_mm_map of linux/prctl.h: auxv_size and exe_fd share the last word. PR_SET_MM_MAP is the one request of its
    // kind that does not need CAP_SYS_RESOURCE.
    let fields: [UInt64] = [
      m.mmStartCode, m.mmEndCode, m.mmStartData, m.mmEndData, m.mmStartBrk, m.mmBrk, m.mmStartStack,
      m.mmArgStart,
      m.mmArgEnd, m.mmEnvStart, m.mmEnvEnd, auxv,
      UInt64(m.mmSavedAuxv.count * 8) | UInt64(UInt32(number)) << 32,
    ]
    let map = fields.withUnsafeBytes { sequence.current.place($0) }
    sequence.current.call(
      __NR_prctl, 35 /* PR_SET_MM */, 14 /* PR_SET_MM_MAP */, Argument(map), Argument(fields.count * 8), 0,
      for: "setting the fields of its mm")
    // Stubs inherit it from this process.
    if m.thpDisabled == true || cl_syscall(Int(__NR_prctl), 42 /* PR_GET_THP_DISABLE */, 0, 0, 0, 0, 0) > 0 {
      let disabled = m.thpDisabled == true
      sequence.current.call(
        __NR_prctl, 41 /* PR_SET_THP_DISABLE */, Argument(disabled ? 1 : 0), Argument(disabled ? m.thpDisableFlags ?? 0 : 0), 0, 0,
        for: disabled ? "disabling huge pages" : "allowing huge pages")
    }
  }

  /// The dumpable flag; after the credentials, a change of which resets it. Root's 2 cannot be set, only come about.
  public static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) {
    guard let dumpable = thread.task?.memory.dumpable, dumpable == 0 || dumpable == 1 else { return }
    program.call(__NR_prctl, 4 /* PR_SET_DUMPABLE */, Argument(dumpable), for: "setting the dumpable flag")
  }
}
