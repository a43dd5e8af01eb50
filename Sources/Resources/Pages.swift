import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// The content of private memory: which pages exist and differ from their file (PAGEMAP_SCAN, man 2 PAGEMAP_SCAN),
/// and their bytes, which the task itself writes to `pages-N.img` and reads from it.
public struct Pages {
  /// Ranges of pages to write, ascending.
  public private(set) var ranges: [Range<UInt64>] = []
  /// Ranges of pages that the parent has too, ascending; see ``findShared(_:with:_:)``.
  private var shared: [Range<UInt64>] = []
  /// Where ranges of memory without access begin.
  private var closed: Set<UInt64> = []
  /// Guard ranges (man 2 madvise, MADV_GUARD_INSTALL).
  public private(set) var guards: [Range<UInt64>] = []
  /// Whether some pages are known to be a relative's too.
  public var isShared: Bool { !shared.isEmpty }
  public var pageCount: UInt64 { ranges.reduce(0) { $0 + ($1.upperBound - $1.lowerBound) / 4096 } }
  public private(set) var scanned: UInt64 = 0
  /// The kernel shows no guard regions here, although it may have made some: Linux 6.13 and 6.14.
  public private(set) var lacksGuards = false

  public init() {}

  /// Finds the pages of a stopped task. One scan goes over the whole address space; what lies in mappings whose content is
  /// elsewhere is left out.
  ///
  /// - `pagemap`: its file in /proc
  public init(scanning task: DumpedTask, _ pagemap: borrowing Descriptor) throws(Failure) {
    let pagemap = pagemap.rawValue
    let all = task.memory.vmas
    // Places in that list: a copy of a long one would take much memory.
    let vmas = all.indices.filter { all[$0].isPrivate && all[$0].kinds.isDisjoint(with: [.vvar, .vsyscall]) }
    guard let first = vmas.first, let last = vmas.last else { return }
    try about("\(task.description): PAGEMAP_SCAN") { () throws(Errno) in
      // What was looked at ahead ends where programs' addresses usually do (five levels of page tables have more).
      let ahead = all[last].end <= AddressSpace.userSpaceEnd ? task.scanAhead : nil
      let scan = ahead ?? PageScan(pagemap, all[first].start..<all[last].end)
      task.scanAhead = nil
      var index = 0
      try scan.forEach { take($0, all, vmas, &index, isGuard: scan.isGuard($0)) }
      lacksGuards = !scan.showsGuards && Self.makesGuards
    }
    // The vDSO's pages belong to no file that the scan knows; the format has them all the same.
    for i in vmas where all[i].kinds.contains(.vdso) { insert(all[i].start..<all[i].end) }
    scanned = vmas.reduce(0) { $0 + all[$1].length / 4096 }
  }

  /// Whether this kernel knows MADV_GUARD_INSTALL.
  private static let makesGuards: Bool = {
    let page = cl_syscall(
      Int(__NR_mmap), 0, pageSize, Int(PROT_READ | PROT_WRITE), Int(MAP_PRIVATE | MAP_ANONYMOUS), -1, 0)
    if page < 0 { return false }
    defer { _ = cl_syscall(Int(__NR_munmap), page, pageSize, 0, 0, 0, 0) }
    return cl_syscall(Int(__NR_madvise), page, pageSize, 102, 0, 0, 0) == 0
  }()

  private mutating func take(
    _ region: cl_page_region, _ all: [VmaEntry], _ vmas: [Int], _ index: inout Int, isGuard: Bool
  ) {
    while index < vmas.count, all[vmas[index]].end <= region.start { index += 1 }
    for vma in vmas[index...].lazy.map({ all[$0] }) {
      if vma.start >= region.end { break }
      let part = max(region.start, vma.start)..<min(region.end, vma.end)
      if isGuard {
        guards.append(part)
      } else if !vma.kinds.contains(.vdso) {
        if let last = ranges.last, last.upperBound == part.lowerBound, part.lowerBound != vma.start {
          ranges[ranges.count - 1] = last.lowerBound..<part.upperBound
        } else {
          ranges.append(part)
          if vma.prot & 7 == 0 { closed.insert(part.lowerBound) }
        }
      }
    }
  }

  private mutating func insert(_ range: Range<UInt64>) {
    let at = ranges.firstIndex { $0.lowerBound > range.lowerBound } ?? ranges.count
    ranges.insert(range, at: at)
  }

  /// `pagemap-N.img`'s entries. What a relative has too is marked: its PID in the images.
  public func entries(sharedWith relative: UInt32) -> [PagemapEntry] {
    var list: [PagemapEntry] = []
    var index = 0
    for range in ranges {
      var at = range.lowerBound
      while at < range.upperBound {
        while index < shared.count, shared[index].upperBound <= at { index += 1 }
        let isShared = index < shared.count && shared[index].lowerBound <= at
        var end = range.upperBound
        if index < shared.count { end = min(end, isShared ? shared[index].upperBound : max(shared[index].lowerBound, at)) }
        var entry = PagemapEntry(address: at, pages: (end - at) / 4096)
        if isShared { entry.cowWithPid = relative }
        list.append(entry)
        at = end
      }
    }
    return list
  }

  // MARK: Copy-on-write

  /// Finds which pages are the very frames that the parent has at the same address: they have been shared since the fork, and
  /// are to be again. Frame numbers are shown to CAP_SYS_ADMIN only (Documentation/admin-guide/mm/pagemap.rst);
  /// without it nothing is found, and a restore copies.
  public mutating func findShared(
    _ task: DumpedTask, _ pagemap: borrowing Descriptor, with parent: DumpedTask, _ parentPages: Pages,
    _ parentFrames: inout ParentFrames
  ) throws(Failure) {
    let vmas = task.memory.vmas.filter { $0.isPrivate && !$0.isKernelMade }
    let inherited = Set(parent.memory.vmas.map(\.identity))
    let common = Self.intersection(ranges, parentPages.ranges)
    if common.isEmpty { return }
    let own = pagemap.rawValue
    shared = try about("\(task.description): comparing its pages with its parent's") { () throws(Errno) in
      var shared: [Range<UInt64>] = []
      var index = 0
      var next = 0
      while next < common.count {
        // Ranges with little between them are read in one piece, but no more than a few hundred pages at once.
        let first = next
        var span = common[first].lowerBound..<min(common[first].upperBound, common[first].lowerBound + Self.mostFrames)
        next += 1
        while next < common.count, common[next].lowerBound - span.upperBound <= 64 * 4096,
          common[next].upperBound - span.lowerBound <= Self.mostFrames
        {
          span = span.lowerBound..<common[next].upperBound
          next += 1
        }
        while true {
          let a = try Self.frames(own, span)
          let b = try parentFrames.frames(of: parent, span)
          for range in common[first..<next] {
            while index < vmas.count, vmas[index].end <= range.lowerBound { index += 1 }
            guard index < vmas.count, inherited.contains(vmas[index].identity) else { continue }
            let part = range.clamped(to: span)
            for page in stride(from: part.lowerBound, to: part.upperBound, by: 4096) {
              let i = Int((page - span.lowerBound) / 4096)
              guard a[i] != 0, a[i] == b[i] else { continue }
              if let last = shared.last, last.upperBound == page, page != range.lowerBound {
                shared[shared.count - 1] = last.lowerBound..<(page + 4096)
              } else {
                shared.append(page..<(page + 4096))
              }
            }
          }
          // The rest of a long range
          let end = common[next - 1].upperBound
          if span.upperBound == end { break }
          span = span.upperBound..<min(end, span.upperBound + Self.mostFrames)
        }
      }
      return shared
    }
  }

  private static let mostFrames: UInt64 = 4096 * 4096

  /// Frame numbers of pages that are there; 0 for others.
  static func frames(_ pagemap: Int32, _ range: Range<UInt64>) throws(Errno) -> [UInt64] {
    var words = try words(pagemap, range)
    // Bit 63: present; bits 0 to 54: the frame
    for i in words.indices { words[i] = words[i] >> 63 == 1 ? words[i] & ((1 << 55) - 1) : 0 }
    return words
  }

  /// What pagemap says of each page.
  static func words(_ pagemap: Int32, _ range: Range<UInt64>) throws(Errno) -> [UInt64] {
    let bytes = Int((range.upperBound - range.lowerBound) / 4096 * 8)
    var failure: Errno?
    let words = [UInt64](unsafeUninitializedCapacity: bytes / 8) { words, count in
      let n = cl_syscall(
        Int(__NR_pread64), Int(pagemap), Int(bitPattern: words.baseAddress), bytes, Int(range.lowerBound / 4096 * 8), 0, 0)
      if n != bytes { failure = n < 0 ? Errno(rawValue: Int32(-n)) : .ioError } else { count = bytes / 8 }
    }
    if let failure { throw failure }
    return words
  }

  /// Whether the pages of some ascending ranges are all there, and nobody's but the process's or a file's
  /// (Documentation/admin-guide/mm/pagemap.rst, bits 63, 56 and 61). Only such may be read from outside: of an anonymous one that is shared,
  /// the process would get a copy (mm/gup.c: gup_must_unshare).
  public static func areExclusive(_ pagemap: Int32, _ ranges: [Range<UInt64>]) -> Bool {
    guard let last = ranges.last else { return true }
    var (start, known) = (UInt64(0), [UInt64]())
    for range in ranges {
      for page in stride(from: range.lowerBound, to: range.upperBound, by: 4096) {
        if page < start || page >= start + UInt64(known.count) * 4096 {
          guard let words = try? words(pagemap, page..<min(page + mostExamined, last.upperBound)) else { return false }
          (start, known) = (page, words)
        }
        let word = known[Int((page - start) / 4096)]
        if word >> 63 == 0 || word & (1 << 56 | 1 << 61) == 0 { return false }
      }
    }
    return true
  }

  /// Bytes of memory that are asked for in one read.
  private static let mostExamined: UInt64 = 1 << 20

  /// The parts of a range that are in none of an ascending list of ranges.
  static func difference(_ range: Range<UInt64>, _ others: some Sequence<Range<UInt64>>) -> [Range<UInt64>] {
    var list: [Range<UInt64>] = []
    var at = range.lowerBound
    for other in others where other.upperBound > at && other.lowerBound < range.upperBound {
      if other.lowerBound > at { list.append(at..<other.lowerBound) }
      at = max(at, other.upperBound)
    }
    if at < range.upperBound { list.append(at..<range.upperBound) }
    return list
  }

  /// Pages in both of two ascending lists of ranges, none of them over the end of one of `a`'s.
  static func intersection(_ a: [Range<UInt64>], _ b: [Range<UInt64>]) -> [Range<UInt64>] {
    var list: [Range<UInt64>] = []
    var j = 0
    for range in a {
      while j < b.count, b[j].upperBound <= range.lowerBound { j += 1 }
      var k = j
      while k < b.count, b[k].lowerBound < range.upperBound {
        list.append(max(range.lowerBound, b[k].lowerBound)..<min(range.upperBound, b[k].upperBound))
        k += 1
      }
    }
    return list
  }

  /// One call moves at most so many bytes, so that a kill does not have to wait long.
  private static let largestTransfer: UInt64 = 256 << 20
  /// IOV_MAX
  private static let mostVectors = 1024

  /// Appends the calls by which the task itself moves all its pages to or from `descriptor`: pwritev or preadv.
  static func transfer(
    _ number: Int32, _ ranges: [Range<UInt64>], from start: UInt64 = 0,
    descriptor: (inout ProgramSequence) -> Argument,
    _ sequence: inout ProgramSequence, for purpose: StaticString
  ) {
    var offset = start
    var vectors: [UInt64] = []
    var bytes: UInt64 = 0
    func flush(_ sequence: inout ProgramSequence) {
      if vectors.isEmpty { return }
      sequence.makeRoom(calls: 3, bytes: vectors.count * 8 + 16)
      let fd = descriptor(&sequence)
      let address = vectors.withUnsafeBytes { sequence.current.place($0) }
      sequence.current.call(
        number, fd, Argument(address), Argument(vectors.count / 2), Argument(offset), 0, expect: Int64(bytes),
        for: purpose,
        vectors[0])
      offset += bytes
      vectors = []
      bytes = 0
    }
    for range in ranges {
      var at = range.lowerBound
      while at < range.upperBound {
        let length = min(range.upperBound - at, largestTransfer - bytes)
        vectors += [at, length]
        bytes += length
        at += length
        if vectors.count == 2 * mostVectors || bytes == largestTransfer { flush(&sequence) }
      }
    }
    flush(&sequence)
  }

  /// Appends the calls by which a stopped task writes parts of its memory to a descriptor that it has been given.
  public static func write(_ parts: some Sequence<Placed>, to descriptor: Argument, _ sequence: inout ProgramSequence) {
    var run: [Range<UInt64>] = []
    var start: UInt64 = 0
    var end: UInt64 = 0
    func flush(_ sequence: inout ProgramSequence) {
      transfer(
        __NR_pwritev, run, from: start, descriptor: { _ in descriptor }, &sequence,
        for: "writing its memory from")
      run = []
    }
    for part in parts {
      if part.offset != end { flush(&sequence) }
      if run.isEmpty { start = part.offset }
      run.append(part.range)
      end = part.offset + (part.range.upperBound - part.range.lowerBound)
    }
    flush(&sequence)
  }

  /// A range of memory, and where in the image it goes.
  public typealias Placed = (range: Range<UInt64>, offset: UInt64)

  /// Ranges of PROT_NONE memory that holds something: the tracer must read them, which it may through `/proc/PID/mem`.
  public var inaccessible: [Placed] { closed.isEmpty ? [] : placed.filter { closed.contains($0.range.lowerBound) } }

  /// Ranges that the task can read itself.
  public var accessible: [Placed] { closed.isEmpty ? placed : placed.filter { !closed.contains($0.range.lowerBound) } }

  /// Bytes of all ranges.
  public var byteCount: UInt64 { pageCount * 4096 }

  /// Every range, and where in the image it goes.
  public var placed: [Placed] {
    var offset: UInt64 = 0
    return ranges.map { range in
      defer { offset += range.upperBound - range.lowerBound }
      return (range, offset)
    }
  }
}

/// Frame numbers of the parent whose children are compared with it, kept because they are many.
public struct ParentFrames {
  private var pid: Int32 = 0
  private var pagemap = Int32(-1)
  private var known: [Range<UInt64>: [UInt64]] = [:]
  private var count = 0

  public init() {}

  mutating func frames(of parent: DumpedTask, _ range: Range<UInt64>) throws(Errno) -> [UInt64] {
    if pid != parent.pid {
      close()
      pagemap = try parent.openPagemap().release()
      pid = parent.pid
    }
    if let frames = known[range] { return frames }
    let frames = try Pages.frames(pagemap, range)
    // 512 KiB
    if count + frames.count <= 65536 {
      known[range] = frames
      count += frames.count
    }
    return frames
  }

  /// Lets go of what is known.
  public mutating func close() {
    if pagemap >= 0 { _ = cl_syscall(Int(__NR_close), Int(pagemap), 0, 0, 0, 0, 0) }
    (pid, pagemap, known, count) = (0, -1, [:], 0)
  }
}

/// Programs that one slot runs one after the other, begun anew whenever one is full.
public struct ProgramSequence {
  public let slot: Slot
  public private(set) var programs: [SyscallProgram]
  private var fetched: [Int32: (program: Int, call: SyscallProgram.Call)] = [:]
  /// Told of the programs and how many of them are complete, whenever that may be of use. Whether all of these have run.
  private var whenComplete: WhenComplete?

  public typealias WhenComplete = (_ programs: [SyscallProgram], _ complete: Int) -> Bool

  public init(_ slot: Slot, whenComplete: WhenComplete? = nil) {
    self.slot = slot
    self.whenComplete = whenComplete
    programs = [SyscallProgram(for: slot)]
  }

  /// A single program that is complete already.
  public init(_ slot: Slot, _ program: SyscallProgram) {
    self.slot = slot
    programs = [program]
  }

  /// The program that calls are appended to.
  public var current: SyscallProgram {
    get { programs[programs.count - 1] }
    _modify { yield &programs[programs.count - 1] }
  }

  /// Begins a new program unless so much fits into the current one; results of calls before are then out of reach.
  public mutating func makeRoom(calls: Int, bytes: Int = 0) {
    if !current.hasRoom(calls: calls, bytes: bytes), !current.isEmpty { complete() }
  }

  /// Begins a new program: the current one can run.
  private mutating func complete() {
    _ = whenComplete?(programs, programs.count)
    programs.append(SyscallProgram(for: slot))
  }

  /// An occasion to run what there is, complete or not, if the task has nothing to do.
  mutating func keepBusy() {
    if whenComplete?(programs, programs.count - 1) == true, !current.isEmpty { complete() }
  }

  public var number: Int { programs.count }

  /// What has been fetched is closed by now.
  mutating func forgetFetched() { fetched = [:] }

  /// A descriptor of the tracer, in the task: got once in each program (man 2 pidfd_getfd). There is room for one call.
  public mutating func fetch(_ descriptor: Int32, _ restore: RestoreContext) -> Argument {
    if let known = fetched[descriptor], known.program == number { return .result(known.call) }
    let call = current.call(
      __NR_pidfd_getfd, Argument(restore.service.tracer), Argument(descriptor), 0,
      for: "getting a file from the tracer")
    fetched[descriptor] = (number, call)
    return .result(call)
  }
}

extension Pages {
  /// Guard ranges as the mappings that the format has them as.
  public var guardEntries: [VmaEntry] {
    guards.map { range in
      var entry = VmaEntry()
      entry.start = range.lowerBound
      entry.end = range.upperBound
      entry.fd = -1
      entry.kinds = .guardPages
      entry.flags = UInt32(MAP_PRIVATE | MAP_ANONYMOUS)
      return entry
    }
  }
}
