import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// Pages for memory that is about to be read, in as few steps as the kernel offers: huge ones where a whole one's worth of an
/// anonymous mapping is in the image, ordinary ones in one go elsewhere (man 2 madvise, MADV_COLLAPSE, MADV_POPULATE_WRITE).
///
/// Neither changes a flag of the mapping, and no page comes to be that is not in the image. What fails here is left to the read.
struct Prefault {
  /// Bytes of a huge page (PMD_SIZE of x86-64).
  private static let hugePage: UInt64 = 2 << 20
  /// Below so many bytes a call costs more than the faults that it spares.
  private static let leastPopulated: UInt64 = 64 << 10
  /// One call works on at most so many bytes, so that a kill does not have to wait long.
  private static let largestStep: UInt64 = 256 << 20
  /// IOV_MAX
  private static let mostVectors = 1024

  private(set) var huge: [Range<UInt64>] = []
  private(set) var small: [Range<UInt64>] = []

  /// `ranges`: pages to be read, ascending.
  init(_ ranges: [Range<UInt64>], of task: RestoredTask, _ options: RestoreOptions) {
    let wantsHuge = options.transparentHugePages && task.memory.thpDisabled != true && Self.systemHasHugePages
    var index = 0
    for vma in task.memory.vmas where vma.isPlainMemory {
      while index < ranges.count, ranges[index].upperBound <= vma.start { index += 1 }
      var whole: Range<UInt64>?
      while index < ranges.count, ranges[index].lowerBound < vma.end {
        let part = max(ranges[index].lowerBound, vma.start)..<min(ranges[index].upperBound, vma.end)
        if let last = whole, last.upperBound == part.lowerBound {
          whole = last.lowerBound..<part.upperBound
        } else {
          if let last = whole { add(last, isHuge: wantsHuge && vma.allowsHugePages) }
          whole = part
        }
        if ranges[index].upperBound > vma.end { break }
        index += 1
      }
      if let last = whole { add(last, isHuge: wantsHuge && vma.allowsHugePages) }
    }
  }

  private mutating func add(_ range: Range<UInt64>, isHuge: Bool) {
    let start = (range.lowerBound + Self.hugePage - 1) & ~(Self.hugePage - 1)
    let end = range.upperBound & ~(Self.hugePage - 1)
    guard isHuge, start < end else { return addSmall(range) }
    addSmall(range.lowerBound..<start)
    huge.append(start..<end)
    addSmall(end..<range.upperBound)
  }

  private mutating func addSmall(_ range: Range<UInt64>) {
    if range.upperBound - range.lowerBound >= Self.leastPopulated { small.append(range) }
  }

  /// Appends the calls. `descriptor` is a file with as many bytes as there are huge pages: a page is collapsed only where there
  /// is one already, so a byte of the file is read into each.
  func append(descriptor: (inout ProgramSequence) -> Argument, _ sequence: inout ProgramSequence) {
    for range in small { advise(range, 23 /* MADV_POPULATE_WRITE */, &sequence) }
    var vectors: [UInt64] = []
    func flush(_ sequence: inout ProgramSequence) {
      if vectors.isEmpty { return }
      sequence.makeRoom(calls: 3, bytes: vectors.count * 8 + 32)
      let fd = descriptor(&sequence)
      let address = vectors.withUnsafeBytes { sequence.current.place($0) }
      sequence.current.call(__NR_preadv, fd, Argument(address), Argument(vectors.count / 2), 0, 0, mayFail: true)
      vectors = []
    }
    for range in huge {
      for at in stride(from: range.lowerBound, to: range.upperBound, by: Int(Self.hugePage)) {
        vectors += [at, 1]
        if vectors.count == 2 * Self.mostVectors { flush(&sequence) }
      }
    }
    flush(&sequence)
    for range in huge { advise(range, 25 /* MADV_COLLAPSE */, &sequence) }
  }

  private func advise(_ range: Range<UInt64>, _ advice: Int, _ sequence: inout ProgramSequence) {
    for at in stride(from: range.lowerBound, to: range.upperBound, by: Int(Self.largestStep)) {
      sequence.makeRoom(calls: 1)
      sequence.current.call(
        __NR_madvise, Argument(at), Argument(min(range.upperBound - at, Self.largestStep)), Argument(advice), mayFail: true)
    }
  }

  /// Whether the kernel has huge pages, and its administrator has not ruled them out.
  private static var systemHasHugePages: Bool { systemPolicy != .never }

  /// Whether memory gets huge pages without being asked to.
  static var areHugePagesUsual: Bool { systemPolicy == .always }

  /// Who gets huge pages (Documentation/admin-guide/mm/transhuge.rst): "always [madvise] never".
  private enum Policy: UInt8 {
    case always = 0x61
    case madvise = 0x6d
    case never = 0x6e
  }

  /// Found by the bracket and one letter: String's search for a text costs a quarter of a millisecond at its first use.
  private static let systemPolicy: Policy = {
    let buffer = ReadBuffer()
    guard let file = try? Descriptor.open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY),
      let text = try? buffer.readAll(file.rawValue)
    else { return .never }
    return withExtendedLifetime(buffer) {
      guard let bracket = text.firstIndex(of: UInt8(ascii: "[")), bracket + 1 < text.endIndex else { return .never }
      return Policy(rawValue: text[bracket + 1]) ?? .never
    }
  }()
}

extension VmaEntry {
  /// Private anonymous memory of ordinary pages that only ever grows up.
  var isPlainMemory: Bool {
    isPrivate && kinds.contains(.privateAnonymous) && !isKernelMade && kinds.isDisjoint(with: .guardPages)
      && flags & (MAP_HUGETLB | MAP_GROWSDOWN) == 0 && (vmFlags ?? 0) & 8 == 0
  }

  /// The program has not asked for the contrary (MADV_NOHUGEPAGE).
  fileprivate var allowsHugePages: Bool { (madv ?? 0) & (1 << 15) == 0 }
}
