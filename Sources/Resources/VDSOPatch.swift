import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// The vDSO of another kernel (man 7 vdso). A program has found out where its functions are, and goes on calling them there, so the
/// recorded code stays at its address, as plain memory; each function's first bytes become a jump to the function of the same
/// name in this kernel's vDSO, which lies elsewhere. Nothing else of the old code may run: it reads data of the kernel that it
/// was built with.
public struct VDSOPatch: Sendable {
  /// What is to be written, and where from the recorded vDSO's start.
  public let writes: [(offset: UInt64, bytes: [UInt8])]

  /// - `recorded`, `own`: the whole of both images.
  /// - `address`: where this kernel's vDSO lies in the task.
  /// - Returns: `nil` where a function can be neither forwarded nor replaced, or an image is not a vDSO.
  public init?(recorded: UnsafeRawBufferPointer, own: UnsafeRawBufferPointer, at address: UInt64) {
    guard let old = VDSOSymbols(recorded), let new = VDSOSymbols(own), !old.functions.isEmpty else { return nil }
    var writes: [UInt64: [UInt8]] = [:]
    let starts = Set(old.functions.values).sorted()
    for (name, offset) in old.functions {
      let bare = name.starts(with: "__vdso_".utf8) ? Array(name.dropFirst(7)) : name
      let code: [UInt8]
      // The state of getrandom is a matter between one vDSO and its program; the system call needs none.
      if let target = new.functions[name], !bare.elementsEqual("getrandom".utf8) {
        code = Self.jump(to: address + target)
      } else if let number = Self.systemCalls.first(where: { bare.elementsEqual($0.name.utf8) })?.number {
        code = Self.call(number)
      } else {
        return nil
      }
      let end = starts.first { $0 > offset } ?? UInt64(recorded.count)
      guard offset + UInt64(code.count) <= end else { return nil }
      writes[offset] = code
    }
    self.writes = writes.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
  }

  /// Functions that are no more than a system call with the same arguments, but faster.
  private static let systemCalls: [(name: String, number: Int32)] = [
    ("clock_gettime", __NR_clock_gettime), ("gettimeofday", __NR_gettimeofday), ("time", __NR_time),
    ("getcpu", __NR_getcpu), ("clock_getres", __NR_clock_getres), ("getrandom", __NR_getrandom),
  ]

  /// jmp *0(%rip), and the address
  private static func jump(to address: UInt64) -> [UInt8] {
    [0xff, 0x25, 0, 0, 0, 0] + (0..<8).map { UInt8(truncatingIfNeeded: address >> (8 * $0)) }
  }

  /// mov $number, %eax; syscall; ret
  private static func call(_ number: Int32) -> [UInt8] {
    [0xb8] + (0..<4).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) } + [0x0f, 0x05, 0xc3]
  }
}

/// The functions that a vDSO offers, by name: offsets from its start (man 5 elf, dynamic symbols).
struct VDSOSymbols {
  private(set) var functions: [[UInt8]: UInt64] = [:]

  /// `nil` if it is not a 64-bit ELF file with dynamic symbols.
  init?(_ file: UnsafeRawBufferPointer) {
    guard file.count >= 64, file.starts(with: [0x7f, 0x45, 0x4c, 0x46, 2, 1]) else { return nil }
    func load<T: BitwiseCopyable>(_ type: T.Type, _ offset: UInt64) -> T? {
      let size = UInt64(MemoryLayout<T>.size)
      guard offset <= UInt64(file.count), size <= UInt64(file.count) - offset else { return nil }
      return file.loadUnaligned(fromByteOffset: Int(offset), as: type)
    }
    guard let header = load(Elf64_Ehdr.self, 0) else { return nil }
    var base: UInt64?
    var dynamic: Elf64_Phdr?
    for i in 0..<UInt64(header.e_phnum) {
      guard let segment = load(Elf64_Phdr.self, header.e_phoff &+ i &* 56) else { return nil }
      if segment.p_type == 1, base == nil { base = segment.p_vaddr &- segment.p_offset }  // PT_LOAD
      if segment.p_type == 2 { dynamic = segment }  // PT_DYNAMIC
    }
    guard let base, let dynamic else { return nil }
    // Tags: 4 DT_HASH, 5 DT_STRTAB, 6 DT_SYMTAB, 10 DT_STRSZ, 0x6ffffef5 DT_GNU_HASH
    var tags: [UInt64: UInt64] = [:]
    for i in 0..<(dynamic.p_filesz / 16) {
      guard let tag = load(UInt64.self, dynamic.p_offset &+ i &* 16), tag != 0,
        let value = load(UInt64.self, dynamic.p_offset &+ i &* 16 &+ 8)
      else { break }
      tags[tag] = value
    }
    guard let symbols = tags[6], let strings = tags[5], let size = tags[10] else { return nil }
    guard let count = Self.count(tags, base, load), count <= 4096 else { return nil }
    for i in 0..<count {
      guard let symbol = load(Elf64_Sym.self, symbols &- base &+ i &* 24) else { return nil }
      // STT_FUNC, and defined here
      guard symbol.st_info & 15 == 2, symbol.st_shndx != 0, UInt64(symbol.st_name) < size else { continue }
      let offset = symbol.st_value &- base
      guard offset < UInt64(file.count) else { return nil }
      var name: [UInt8] = []
      while let byte = load(UInt8.self, strings &- base &+ UInt64(symbol.st_name) &+ UInt64(name.count)), byte != 0 {
        name.append(byte)
      }
      functions[name] = offset
    }
  }

  /// How many symbols there are, which only the hash tables tell.
  private static func count(_ tags: [UInt64: UInt64], _ base: UInt64, _ load: (UInt32.Type, UInt64) -> UInt32?) -> UInt64? {
    if let hash = tags[4] { return load(UInt32.self, hash &- base &+ 4).map { UInt64($0) } }
    guard let hash = tags[0x6fff_fef5] else { return nil }
    let at = hash &- base
    // Buckets, first symbol, words of the Bloom filter; then the filter, the buckets, and the chains, which end with an odd word.
    guard let buckets = load(UInt32.self, at), let first = load(UInt32.self, at &+ 4), let words = load(UInt32.self, at &+ 8),
      buckets <= 4096, words <= 4096
    else { return nil }
    let bucketsAt = at &+ 16 &+ UInt64(words) * 8
    var last: UInt32 = 0
    for i in 0..<UInt64(buckets) { last = max(last, load(UInt32.self, bucketsAt &+ i * 4) ?? 0) }
    if last < first { return UInt64(first) }
    let chains = bucketsAt &+ UInt64(buckets) * 4
    while let word = load(UInt32.self, chains &+ UInt64(last - first) * 4) {
      last += 1
      if word & 1 == 1 { return UInt64(last) }
    }
    return nil
  }
}

extension RestoredTask {
  /// The bytes of its vDSO, if the images have them all.
  private func recordedVDSO(_ restore: RestoreContext) throws(Failure) -> [UInt8]? {
    guard let range = vdso.vdso, range.count <= 1 << 20 else { return nil }
    var parts: [(range: Range<UInt64>, offset: UInt64)] = []
    var offset: UInt64 = 0
    for (part, _) in recordedPages() {
      let common = part.clamped(to: range)
      if !common.isEmpty { parts.append((common, offset + common.lowerBound - part.lowerBound)) }
      offset += part.upperBound - part.lowerBound
    }
    guard parts.reduce(0, { $0 + $1.range.count }) == range.count else { return nil }
    let image = ImageFile.pages(pagesID)
    let file = Descriptor(try asFailure { () throws(ImageError) in try restore.directory.open(image) }.rawValue)
    return try about("\(image.fileName): reading the vDSO of \(description)") { () throws(Errno) in
      var bytes = [UInt8](repeating: 0, count: range.count)
      for (part, offset) in parts {
        let n = bytes.withUnsafeMutableBytes {
          cl_syscall(
            Int(__NR_pread64), Int(file.rawValue), Int(bitPattern: $0.baseAddress) + Int(part.lowerBound - range.lowerBound),
            part.count, Int(offset), 0, 0)
        }
        guard n == part.count else { throw n < 0 ? Errno(rawValue: Int32(-n)) : .ioError }
      }
      return bytes
    }
  }

  /// Compares its vDSO with this kernel's. Tasks are many, so that it is done when they are read, by whoever reads them.
  public func compareVDSO(_ restore: RestoreContext) throws(Failure) {
    guard let own = VDSO.image, let file = VDSO.file, vdso.vdso?.count == own.count, let recorded = try recordedVDSO(restore) else {
      return
    }
    guard let code = file.baseAddress else { return }
    hasOwnVDSO = memcmp(recorded, code, file.count) == 0
  }

  /// Finds out whether its vDSO is this kernel's, whose code it may then go on with; if not, what it calls is forwarded, which a
  /// thread that was frozen in the middle of it cannot be. Nothing is made yet.
  public func checkVDSO(_ threads: [CoreImage], _ restore: RestoreContext) throws(Failure) {
    guard !hasOwnVDSO, let own = VDSO.image, let range = vdso.vdso else { return }
    let recorded = try recordedVDSO(restore)
    if recorded == nil, range.count == own.count { return }
    let advice = "Restore on the kernel that the tree was dumped on."
    guard let recorded, recorded.withUnsafeBytes({ VDSOPatch(recorded: $0, own: own, at: 0) }) != nil else {
      throw Failure(
        "mm-\(pid).img: \(description): its vDSO is another kernel's, and has functions that this kernel's cannot stand in for (vdso-patch)",
        advice: advice)
    }
    for thread in threads where range.contains(thread.entry.threadInfo?.gpregs.ip ?? 0) {
      throw Failure(
        "core-\(pid).img: \(description): a thread was frozen inside the vDSO, and that was another kernel's (vdso-patch)",
        advice: advice + " Or dump it again at another moment.")
    }
    foreignVDSO = ForeignVDSO(range, recorded)
    // What is at its place from now on is memory like any other; of its data nothing is left.
    memory.vmas.removeAll { $0.kinds.contains(.vvar) }
    for i in memory.vmas.indices where memory.vmas[i].kinds.contains(.vdso) {
      memory.vmas[i].kinds = [.regular, .privateAnonymous]
      memory.vmas[i].flags = UInt32(MAP_PRIVATE | MAP_ANONYMOUS)
    }
    vmasChanged()
  }

  /// Forwards the recorded functions, when the task has its memory: `vdso` is where it has this kernel's.
  public func forwardVDSO(to vdso: UInt64) throws(Failure) {
    guard let foreign = foreignVDSO, let own = VDSO.image,
      let patch = foreign.bytes.withUnsafeBytes({ VDSOPatch(recorded: $0, own: own, at: vdso) })
    else { return }
    try about("\(description): forwarding the functions of its vDSO") { () throws(Errno) in
      let memory = try ProcDirectory(pid: tracerPID).open("mem", O_RDWR)
      for (offset, bytes) in patch.writes {
        let n = bytes.withUnsafeBytes {
          cl_syscall(
            Int(__NR_pwrite64), Int(memory.rawValue), Int(bitPattern: $0.baseAddress), $0.count,
            Int(foreign.range.lowerBound + offset), 0, 0)
        }
        guard n == bytes.count else { throw n < 0 ? Errno(rawValue: Int32(-n)) : .ioError }
      }
    }
  }
}
