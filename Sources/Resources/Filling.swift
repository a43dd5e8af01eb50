import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// The anonymous memory of a large task, filled by both threads of the tracer at the same time, straight from the image's pages
/// (man 2 UFFDIO_COPY): no page is cleared first, and none is faulted in. Runs of small neighbours among the mappings are
/// reserved as one and cut up by mprotect(2) when they are full. What is never accessible may count for as much as what is of what the kernel
/// has promised (Documentation/mm/overcommit-accounting.rst), where that has no limit.
///
/// Where that is much work for the task itself, one thread fills, and the task cuts behind it. A few cuts are made before, since each
/// has the kernel wait for who fills another part of the same mapping (mm/mmap_lock.c: __vma_start_write).
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
  /// Whether cutting takes about as long as filling.
  private let hasManyCuts: Bool
  /// Where the cuts end that are made first, ascending.
  private var ends: [UInt64] = []
  /// Below that nothing is registered any more, and the cuts are appended.
  private var opened: UInt64 = 0
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
    let cuts = runs.reduce(0) { $0 + $1.cuts }
    hasManyCuts = cuts > 256 && cuts > parts.reduce(0) { $0 + $1.range.count / 4096 } / 4
    guard parts.reduce(0, { $0 + UInt64($1.range.count) }) >= Self.least else { return nil }
  }

  /// Neighbours that can be reserved together. To change the protection of pages that are there takes time for each, so that a large
  /// mapping is not reserved with others than its like.
  private struct Run {
    private(set) var range: Range<UInt64>
    let flags: UInt32
    private(set) var hasPages = false
    /// Of those with access, if it is the same for all.
    private var access: UInt32?
    private var (open, closed) = (Part(), Part())
    private var isLarge = false

    private static let large: UInt64 = 2 << 20

    /// Mappings with or without access
    private struct Part {
      var count = 0
      var bytes: UInt64 = 0
    }

    init(_ vma: VmaEntry, _ hasPages: Bool) {
      range = vma.start..<vma.start
      flags = vma.flags & Linux.MAP_NORESERVE
      append(vma, hasPages)
    }

    /// What they are reserved with: what there is less of is changed. What has been promised for closed ones counts until they go.
    var protection: UInt32 {
      if let access, closed.bytes == 0 || closed.bytes <= open.bytes && !Filling.countsPromises { access } else { 0 }
    }

    /// How many mappings have to be changed.
    var cuts: Int { protection == 0 ? open.count : closed.count }

    func takes(_ vma: VmaEntry) -> Bool {
      let isEqual = closed.count == 0 ? access == vma.prot : open.count == 0 && vma.prot == 0
      return range.upperBound == vma.start && flags == vma.flags & Linux.MAP_NORESERVE
        && (isEqual || !isLarge && vma.length < Self.large)
    }

    mutating func append(_ vma: VmaEntry, _ hasPages: Bool) {
      range = range.lowerBound..<vma.end
      if vma.prot == 0 {
        closed.count += 1
        closed.bytes += vma.length
      } else {
        access = open.count == 0 || access == vma.prot ? vma.prot : nil
        open.count += 1
        open.bytes += vma.length
      }
      self.hasPages = self.hasPages || hasPages
      isLarge = isLarge || vma.length >= Self.large
    }
  }

  /// Whether there is a limit to what the kernel promises (vm.overcommit_memory: 2, man 5 proc_sys_vm).
  private static let countsPromises: Bool = {
    let buffer = ReadBuffer()
    guard let file = try? Descriptor.open("/proc/sys/vm/overcommit_memory", O_RDONLY), let text = try? buffer.readAll(file.rawValue)
    else { return true }
    return withExtendedLifetime(buffer) { text.first == UInt8(ascii: "2") }
  }()

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
  func reserve(_ task: RestoredTask, _ sequence: inout ProgramSequence) {
    for (index, range) in runs.enumerated() {
      sequence.makeRoom(calls: 1)
      sequence.current.call(
        __NR_mmap, Argument(range.lowerBound), Argument(range.upperBound - range.lowerBound), Argument(protections[index]),
        Argument(UInt32(MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED) | flags[index]), -1, 0, for: "reserving", range.lowerBound)
    }
    if hasManyCuts { cutSome(task, &sequence) }
    sequence.makeRoom(calls: 2, bytes: 16)
    let processor = sequence.current.reserve(4)
    sequence.current.call(__NR_getcpu, Argument(processor.address), 0, 0, mayFail: true)
    self.processor = processor
    call = sequence.current.call(__NR_userfaultfd, Argument(Int(O_CLOEXEC) | 1 /* UFFD_USER_MODE_ONLY */), mayFail: true)
  }

  /// Appends the cuts that are made first.
  private func cutSome(_ task: RestoredTask, _ sequence: inout ProgramSequence) {
    var borders: [UInt64] = []
    for vma in task.memory.vmas where vma.start >= (ends.last ?? 0) + Self.distance && isCut(vma) {
      cut(vma, &sequence)
      ends.append(vma.end)
      borders += [vma.start, vma.end]
    }
    // What is copied at once must lie in one mapping (man 2 UFFDIO_COPY, ENOENT); an entry of a page map may lie in several.
    var next = 0
    var split: [Pages.Placed] = []
    split.reserveCapacity(parts.count + borders.count)
    for part in parts {
      var start = part.range.lowerBound
      while next < borders.count, borders[next] <= start { next += 1 }
      while start < part.range.upperBound {
        let end = next < borders.count ? min(borders[next], part.range.upperBound) : part.range.upperBound
        split.append((start..<end, part.offset + (start - part.range.lowerBound)))
        start = end
        if next < borders.count, borders[next] == end { next += 1 }
      }
    }
    parts = split
  }

  /// Bytes of memory between these cuts.
  private static let distance: UInt64 = 1 << 20

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
    // Without it the task reads for itself, and finds out if more is wrong than that this cannot be had.
    guard let faults = try? register(task, Int32(number)),
      let copy = PagesCopy(of: ImageFile.pages(task.pagesID).fileName, parts, into: faults.rawValue, restore)
    else { return }
    if hasManyCuts {
      try fillAhead(task, copy, stayingOff: mayMove ? theirs : nil, faults.rawValue, &sequence)
    } else {
      helper.hire()
      try helper.share({ () throws(Failure) in try copy.takePart() }, { () throws(Failure) in try copy.takePart() })
    }
    try open(task, below: AddressSpace.userSpaceEnd, faults.rawValue, &sequence)
    isDone = true
  }

  /// Fills, with the task cutting behind, on another processor than the one where it waits.
  private func fillAhead(
    _ task: RestoredTask, _ copy: PagesCopy, stayingOff processor: Int?, _ faults: Int32, _ sequence: inout ProgramSequence
  ) throws(Failure) {
    var next = 0
    try stayingOff(processor) { () throws(Failure) in
      try copy.takePart { (end) throws(Failure) in
        let first = next
        while next < ends.count, ends[next] <= end { next += 1 }
        if next > first { try open(task, below: ends[next - 1], faults, &sequence) }
      } meanwhile: { () throws(Failure) in
        sequence.keepBusy()
      }
    }
  }

  /// Whether a mapping was reserved with another protection than its own.
  private func isCut(_ vma: VmaEntry) -> Bool {
    !vma.kinds.contains(.guardPages) && protection(at: vma.start).map { $0 != vma.prot } ?? false
  }

  private func cut(_ vma: VmaEntry, _ sequence: inout ProgramSequence) {
    sequence.makeRoom(calls: 1)
    sequence.current.call(
      __NR_mprotect, Argument(vma.start), Argument(vma.length), Argument(vma.prot), for: "protecting", vma.start)
  }

  /// What is full becomes the mappings that are to be, up to the end of one of them.
  private func open(_ task: RestoredTask, below end: UInt64, _ faults: Int32, _ sequence: inout ProgramSequence) throws(Failure) {
    let range = opened..<end
    opened = end
    try about("UFFDIO_UNREGISTER") { () throws(Errno) in
      for run in runs where run.overlaps(range) { try unregister(run.clamped(to: range), faults) }
    }
    let vmas = task.memory.vmas
    while nextCut < vmas.count, vmas[nextCut].end <= range.upperBound {
      if isCut(vmas[nextCut]) { cut(vmas[nextCut], &sequence) }
      nextCut += 1
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
