import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// UFFDIO_COPY (linux/userfaultfd.h)
private let copyRequest = 0xc028_aa03

/// Bytes of an image that a thread has mapped at a time; they count as the tool's memory.
private let window: UInt64 = 2 << 20

/// The anonymous memory of a large task, filled by both threads of the tracer at the same time, straight from the image's pages
/// (man 2 UFFDIO_COPY): no page is cleared first, and none is faulted in. Runs of small neighbours among the mappings are
/// reserved as one, without access if they differ in it, and cut up by mprotect(2) when they are full: so what is never accessible counts
/// for nothing that the kernel has promised (Documentation/mm/overcommit-accounting.rst). Where that is much work for the task itself,
/// one thread fills, and the task cuts behind it.
///
/// Where there is no userfaultfd for us, the task reads all by itself: in a sandbox that forbids it, before Linux 5.11.
public final class Filling {
  /// Neighbours that were reserved together, ascending.
  let runs: [Range<UInt64>]
  /// MAP_NORESERVE, for those that have it.
  private let flags: [UInt32]
  /// What they are reserved with.
  private let protections: [UInt32]
  /// Mappings, by their start, that are the parent's.
  let kept: AddressSpace.Inherited
  /// Its pages, and where they are in the image, until they are in place.
  private var parts: [Pages.Placed]
  /// The call by which the task makes its descriptor, and where it says which processor it is on: the last of its program.
  private var call: SyscallProgram.Call?
  private var processor: SyscallProgram.Buffer?
  /// The first of the task's mappings that is not known to have what it was reserved with, or to be cut.
  private var nextCut = 0
  /// All pages of the runs are in place, and the calls appended that cut them up.
  public private(set) var isDone = false

  /// Below so many bytes the task's own read is quicker.
  public static let least: UInt64 = 4 << 20

  /// Prepares the largest of tasks that are to get their memory: those that would take longer than their share of the processors.
  public static func prepare(_ tasks: ArraySlice<RestoredTask>, _ restore: RestoreContext) -> [RestoredTask] {
    candidates(tasks, restore).filter { task in
      task.filling = Filling(task)
      return task.filling != nil
    }
  }

  /// The tasks that may turn out to be so large.
  public static func candidates(_ tasks: ArraySlice<RestoredTask>, _ restore: RestoreContext) -> [RestoredTask] {
    // Copied pages are small ones; where the system would make huge ones by itself, the task shall have these.
    if restore.options.transparentHugePages || Prefault.areHugePagesUsual { return [] }
    let all = tasks.reduce(0) { $0 &+ $1.pages.bytes }
    let processors = UInt64(max(sysconf(Int32(_SC_NPROCESSORS_ONLN)), 1))
    return tasks.filter { $0.pages.bytes >= least && $0.pages.bytes > all / processors / 2 }
  }

  private init?(_ task: RestoredTask) {
    kept = AddressSpace.inherited(task)
    let pages = task.recordedPages()
    var runs: [Run] = []
    var index = 0
    for vma in task.memory.vmas where !vma.kinds.contains(.guardPages) {
      let hasPages = vma.hasSome(of: pages, &index)
      guard vma.isPlainMemory, kept[vma.start] == nil else { continue }
      if let last = runs.last, last.takes(vma) {
        runs[runs.count - 1].append(vma, hasPages)
      } else {
        runs.append(Run(vma, hasPages))
      }
    }
    runs = runs.filter(\.hasPages)
    self.runs = runs.map(\.range)
    flags = runs.map(\.flags)
    protections = runs.map(\.protection)
    parts = task.placed(in: self.runs)
    guard parts.reduce(0, { $0 + UInt64($1.range.count) }) >= Self.least else { return nil }
  }

  /// Neighbours that can be reserved together. To change the protection of pages that are there takes time for each, so that a large
  /// mapping is not reserved with others than its like.
  private struct Run {
    private(set) var range: Range<UInt64>
    let flags: UInt32
    private(set) var protection: UInt32
    private(set) var hasPages: Bool
    private var isLarge: Bool

    init(_ vma: VmaEntry, _ hasPages: Bool) {
      range = vma.start..<vma.end
      flags = vma.flags & Linux.MAP_NORESERVE
      protection = vma.prot
      self.hasPages = hasPages
      isLarge = vma.length >= window
    }

    func takes(_ vma: VmaEntry) -> Bool {
      range.upperBound == vma.start && flags == vma.flags & Linux.MAP_NORESERVE
        && (protection == vma.prot || !isLarge && vma.length < window)
    }

    mutating func append(_ vma: VmaEntry, _ hasPages: Bool) {
      range = range.lowerBound..<vma.end
      if protection != vma.prot { protection = 0 }
      self.hasPages = self.hasPages || hasPages
      isLarge = isLarge || vma.length >= window
    }
  }

  /// Whether the mapping at an address is full.
  func contains(_ address: UInt64) -> Bool { isDone && protection(at: address) != nil }

  /// What the mapping at an address has been reserved with.
  private func protection(at address: UInt64) -> UInt32? {
    let index = firstRun(endingAbove: address)
    return index < runs.count && runs[index].contains(address) ? protections[index] : nil
  }

  /// What of a range of pages is left to the task.
  func rest(of range: Range<UInt64>) -> [Range<UInt64>] {
    guard isDone else { return [range] }
    let first = firstRun(endingAbove: range.lowerBound)
    if first < runs.count, runs[first].lowerBound <= range.lowerBound, runs[first].upperBound >= range.upperBound { return [] }
    return Pages.difference(range, runs[first...].prefix { $0.lowerBound < range.upperBound })
  }

  private func firstRun(endingAbove address: UInt64) -> Int {
    var (low, high) = (0, runs.count)
    while low < high {
      let middle = (low + high) / 2
      if runs[middle].upperBound <= address { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// Appends the calls that reserve the runs and make the descriptor.
  func reserve(_ sequence: inout ProgramSequence) {
    for (index, range) in runs.enumerated() {
      sequence.makeRoom(calls: 1)
      sequence.current.call(
        __NR_mmap, Argument(range.lowerBound), Argument(range.upperBound - range.lowerBound), Argument(protections[index]),
        Argument(UInt32(MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED) | flags[index]), -1, 0, for: "reserving", range.lowerBound)
    }
    sequence.makeRoom(calls: 2, bytes: 16)
    let processor = sequence.current.reserve(4)
    sequence.current.call(__NR_getcpu, Argument(processor.address), 0, 0, mayFail: true)
    self.processor = processor
    call = sequence.current.call(__NR_userfaultfd, Argument(Int(O_CLOEXEC) | 1 /* UFFD_USER_MODE_ONLY */), mayFail: true)
  }

  /// Fills the memory of a task whose program with the reservations has ended. `helper` does its part of it. Appends the calls that cut
  /// up what is full. `mayMove`: this thread will make no process any more, so that it may choose its processor.
  public func run(
    _ task: RestoredTask, in slot: Slot, _ restore: RestoreContext, _ helper: Companion, mayMove: Bool,
    _ sequence: inout ProgramSequence
  ) throws(Failure) {
    defer { parts = [] }
    guard let call, let processor else { return }
    let number = slot.result(call)
    if number < 0 { return }
    let theirs = Int(slot.value(processor, as: UInt32.self))
    // The kernel looks at every mapping when the last descriptor is closed: that is ours, and there are fewer then.
    sequence.makeRoom(calls: 1)
    sequence.current.call(__NR_close, Argument(number), for: "closing its userfaultfd")
    let work: Work
    do throws(Errno) {
      work = try Work(
        faults: try register(task, Int32(number)), restore.directory.descriptor.rawValue, ImageFile.pages(task.pagesID).fileName, parts,
        fault: FaultInjection.next())
    } catch {
      // The task reads for itself, and finds out if more is wrong than that this cannot be had.
      return
    }
    if hasManyCuts(task) {
      try fillAhead(task, work, stayingOff: mayMove ? theirs : nil, &sequence)
    } else {
      helper.hire()
      helper.start { () throws(Failure) in try work.takePart() }
      var failures: [Failure] = []
      do throws(Failure) { try work.takePart() } catch { failures.append(error) }
      do throws(Failure) { try helper.wait() } catch { failures.append(error) }
      if let failure = failures.first { throw failure }
      try open(task, 0..<AddressSpace.userSpaceEnd, work.faults.rawValue, &sequence)
    }
    isDone = true
  }

  /// Fills, with the task cutting behind, on another processor than the one where it waits.
  private func fillAhead(
    _ task: RestoredTask, _ work: Work, stayingOff processor: Int?, _ sequence: inout ProgramSequence
  ) throws(Failure) {
    var cut: UInt64 = 0
    try stayingOff(processor) { () throws(Failure) in
      try work.takePart { () throws(Failure) in
        sequence.advance()
      } whenFull: { (end) throws(Failure) in
        try open(task, cut..<end, work.faults.rawValue, &sequence)
        cut = end
      }
    }
    try open(task, cut..<AddressSpace.userSpaceEnd, work.faults.rawValue, &sequence)
  }

  /// To cut takes the kernel as long as to fill a page.
  private func hasManyCuts(_ task: RestoredTask) -> Bool {
    let cuts = task.memory.vmas.count { isCut($0) }
    return cuts > 256 && cuts > parts.reduce(0) { $0 + $1.range.count / 4096 } / 4
  }

  /// Whether a mapping was reserved with another protection than its own.
  private func isCut(_ vma: VmaEntry) -> Bool {
    !vma.kinds.contains(.guardPages) && protection(at: vma.start).map { $0 != vma.prot } ?? false
  }

  /// What is full becomes the mappings that are to be.
  private func open(_ task: RestoredTask, _ range: Range<UInt64>, _ faults: Int32, _ sequence: inout ProgramSequence) throws(Failure) {
    try about("UFFDIO_UNREGISTER") { () throws(Errno) in
      for run in runs where run.overlaps(range) { try unregister(run.clamped(to: range), faults) }
    }
    let vmas = task.memory.vmas
    while nextCut < vmas.count, vmas[nextCut].end <= range.upperBound {
      let vma = vmas[nextCut]
      nextCut += 1
      guard isCut(vma) else { continue }
      sequence.makeRoom(calls: 1)
      sequence.current.call(
        __NR_mprotect, Argument(vma.start), Argument(vma.length), Argument(vma.prot), for: "opening", vma.start)
    }
  }

  // linux/userfaultfd.h
  private static let apiRequest = 0xc018_aa3f
  private static let registerRequest = 0xc020_aa00
  private static let unregisterRequest = 0x8010_aa01

  /// The task's descriptor, with the runs registered: only such memory can be copied into.
  private func register(_ task: RestoredTask, _ number: Int32) throws(Errno) -> Descriptor {
    let process = try pidfdOpen(task.tracerPID)
    let faults = try pidfdGetfd(process.rawValue, number)
    var api: (UInt64, UInt64, UInt64) = (0xaa /* UFFD_API */, 0, 0)
    try withUnsafeMutablePointer(to: &api) { pointer throws(Errno) in
      _ = try syscall(__NR_ioctl, Int(faults.rawValue), Self.apiRequest, Int(bitPattern: pointer))
    }
    for run in runs {
      var range: (UInt64, UInt64, UInt64, UInt64) = (
        run.lowerBound, run.upperBound - run.lowerBound, 1 /* UFFDIO_REGISTER_MODE_MISSING */, 0
      )
      try withUnsafeMutablePointer(to: &range) { pointer throws(Errno) in
        _ = try syscall(__NR_ioctl, Int(faults.rawValue), Self.registerRequest, Int(bitPattern: pointer))
      }
    }
    return faults
  }

  private func unregister(_ part: Range<UInt64>, _ faults: Int32) throws(Errno) {
    var range = (part.lowerBound, part.upperBound - part.lowerBound)
    try withUnsafeMutablePointer(to: &range) { pointer throws(Errno) in
      _ = try syscall(__NR_ioctl, Int(faults), Self.unregisterRequest, Int(bitPattern: pointer))
    }
  }

  /// What both threads do: whoever is ready takes the next window of the image.
  private final class Work: @unchecked Sendable {
    let faults: Descriptor
    private let image: Descriptor
    private let name: String
    private let size: UInt64
    private let parts: [Pages.Placed]
    private let first: UInt64
    private let count: UInt32
    private let fault: FaultInjection.Fault?
    /// How many windows have been taken. A word of the heap, for both to see.
    private let taken = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)

    /// Throws also where the image cannot be mapped, as on some file systems.
    init(
      faults: consuming Descriptor, _ folder: Int32, _ name: String, _ parts: [Pages.Placed], fault: FaultInjection.Fault?
    ) throws(Errno) {
      taken.pointee = 0
      self.faults = faults
      self.name = name
      self.parts = parts
      self.fault = fault
      first = (parts.first?.offset ?? 0) / window
      let end = parts.last.map { $0.offset + UInt64($0.range.count) } ?? 0
      count = UInt32((end + window - 1) / window - first)
      image = try Descriptor.open(at: folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC)
      size = UInt64(try fstat(at: image.rawValue).st_size)
      _ = try Window(of: image.rawValue)
    }

    deinit { taken.deallocate() }

    /// `meanwhile` is done every now and then, `whenFull` whenever all is full below an address.
    func takePart(
      meanwhile: () throws(Failure) -> Void = {}, whenFull: (UInt64) throws(Failure) -> Void = { _ in }
    ) throws(Failure) {
      let place = try about("mapping \(name)") { () throws(Errno) in try Window(of: image.rawValue) }
      var index = 0
      while true {
        let next = cl_add32(taken, 1)
        if next >= count { return }
        let bytes = (first + UInt64(next)) * window..<(first + UInt64(next) + 1) * window
        index = firstPart(endingAbove: bytes.lowerBound, from: index)
        do throws(Failure) {
          if let fault, next == min(UInt32(clamping: fault.call), count - 1) { throw Failure("filling its memory", fault.errno) }
          guard index < parts.count, parts[index].offset < bytes.upperBound else { continue }
          try about("mapping \(name)") { () throws(Errno) in try place.move(to: bytes.lowerBound, of: image.rawValue) }
          try whenFull(try copy(bytes, from: place.address, index, meanwhile))
        } catch {
          // The other takes nothing more either.
          cl_store32(taken, count)
          throw error
        }
      }
    }

    private func firstPart(endingAbove offset: UInt64, from index: Int) -> Int {
      var (low, high) = (index, parts.count)
      while low < high {
        let middle = (low + high) / 2
        if parts[middle].offset + UInt64(parts[middle].range.count) <= offset { low = middle + 1 } else { high = middle }
      }
      return low
    }

    /// Copies a window of the image: where in memory that ends.
    private func copy(
      _ window: Range<UInt64>, from place: UInt64, _ first: Int, _ meanwhile: () throws(Failure) -> Void
    ) throws(Failure) -> UInt64 {
      for (index, part) in parts[first...].enumerated() {
        if part.offset >= window.upperBound { return part.range.lowerBound }
        if index % 16 == 0 { try meanwhile() }
        var from = max(part.offset, window.lowerBound)
        let end = min(part.offset + UInt64(part.range.count), window.upperBound)
        while from < end {
          // struct uffdio_copy: where to, where from, length, UFFDIO_COPY_MODE_DONTWAKE, how much came
          var arguments: (UInt64, UInt64, UInt64, UInt64, Int64) = (
            part.range.lowerBound + (from - part.offset), place + (from - window.lowerBound), end - from, 1, 0
          )
          let result = withUnsafeMutablePointer(to: &arguments) {
            cl_syscall(Int(__NR_ioctl), Int(faults.rawValue), copyRequest, Int(bitPattern: $0), 0, 0, 0)
          }
          if result == 0 {
            from = end
          } else if result == -Int(EAGAIN) {
            from += UInt64(max(arguments.4, 0))
          } else {
            throw failure(Errno(rawValue: Int32(-result)), at: arguments.0, from)
          }
        }
        if end == window.upperBound { return part.range.lowerBound + (end - part.offset) }
      }
      return parts.last?.range.upperBound ?? 0
    }

    private func failure(_ error: Errno, at address: UInt64, _ offset: UInt64) -> Failure {
      switch error {
      case .noSuchProcess:
        Failure("it died while it was being restored: UFFDIO_COPY", error, advice: "Was it killed, or is memory short?")
      case .badAddress:
        Failure(
          "\(name) cannot be read at byte \(offset): UFFDIO_COPY", error,
          advice: "The image is damaged, or was cut short just now; restore from another copy.")
      default: Failure("filling its memory at 0x\(String(address, radix: 16)): UFFDIO_COPY", error)
      }
    }
  }

  /// A part of an image in this process's memory. What lies behind the end of the file cannot be read.
  private struct Window: ~Copyable {
    let address: UInt64

    init(of file: Int32) throws(Errno) {
      address = UInt64(try syscall(__NR_mmap, 0, Int(window), Int(PROT_READ), Int(MAP_PRIVATE), Int(file), 0))
    }

    deinit { _ = cl_syscall(Int(__NR_munmap), Int(address), Int(window), 0, 0, 0, 0) }

    func move(to offset: UInt64, of file: Int32) throws(Errno) {
      // 0x8000: MAP_POPULATE
      let flags = Int(MAP_PRIVATE) | Int(MAP_FIXED) | 0x8000
      _ = try syscall(__NR_mmap, Int(address), Int(window), Int(PROT_READ), flags, Int(file), Int(offset))
    }
  }
}

extension RestoredTask {
  /// The pages in ascending ranges of memory, and where they are in the image.
  func placed(in ranges: [Range<UInt64>]) -> [Pages.Placed] {
    var list: [Pages.Placed] = []
    var offset: UInt64 = 0
    var index = 0
    for (range, _) in recordedPages() {
      while index < ranges.count, ranges[index].upperBound <= range.lowerBound { index += 1 }
      var i = index
      while i < ranges.count, ranges[i].lowerBound < range.upperBound {
        let part = range.clamped(to: ranges[i])
        list.append((part, offset + part.lowerBound - range.lowerBound))
        i += 1
      }
      offset += range.upperBound - range.lowerBound
    }
    return list
  }
}
