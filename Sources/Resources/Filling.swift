import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// The anonymous memory of a large task, filled by both threads of the tracer at the same time, straight from the image's pages
/// (man 2 UFFDIO_COPY): no page is cleared first, and none is faulted in. Runs of neighbours among the mappings are
/// reserved as one without access, and cut up by mprotect(2) when they are full, so that what is never accessible counts
/// for nothing that the kernel has promised (Documentation/mm/overcommit-accounting.rst).
///
/// Where the kernel has no userfaultfd for us, the task reads all by itself.
public final class Filling {
  /// Neighbours that were reserved together, ascending.
  let runs: [Range<UInt64>]
  /// MAP_NORESERVE, for those that have it.
  private let flags: [UInt32]
  /// Mappings, by their start, that are the parent's.
  let kept: Set<UInt64>
  /// Its pages, and where they are in the image.
  private let parts: [Pages.Placed]
  private let image: Descriptor
  private let imageSize: UInt64
  /// The call by which the task makes its descriptor: the last of its program.
  private var call: SyscallProgram.Call?
  /// The descriptor in the task, until it is closed.
  var descriptor: Int32?
  /// All pages of the runs are in place.
  public private(set) var isDone = false

  /// Below so many bytes the task's own read is quicker.
  private static let least: UInt64 = 4 << 20
  /// Bytes of the image that a thread has mapped at a time; they count as the tool's memory.
  private static let window: UInt64 = 2 << 20

  /// Prepares the largest of tasks that are to get their memory: those that would take longer than their share of the processors.
  public static func prepare(_ tasks: [RestoredTask], _ restore: RestoreContext) -> [RestoredTask] {
    if restore.options.transparentHugePages { return [] }
    let sizes = tasks.map { task in task.pagemap.reduce(0) { $0 &+ $1.pageCount &* 4096 } }
    let all = sizes.reduce(0, &+)
    let processors = UInt64(max(sysconf(Int32(_SC_NPROCESSORS_ONLN)), 1))
    var large: [RestoredTask] = []
    for (task, size) in zip(tasks, sizes) where size >= least && size > all / processors / 2 {
      task.filling = Filling(task, restore)
      if task.filling != nil { large.append(task) }
    }
    return large
  }

  private init?(_ task: RestoredTask, _ restore: RestoreContext) {
    kept = AddressSpace.keptMappings(task)
    var runs: [(range: Range<UInt64>, flags: UInt32)] = []
    var index = 0
    var hasContent: [Bool] = []
    for vma in task.memory.vmas where !vma.kinds.contains(.guardPages) {
      let hasPages = vma.hasPages(of: task, &index)
      guard vma.isPlainMemory, !kept.contains(vma.start) else { continue }
      let flags = vma.flags & Linux.MAP_NORESERVE
      if let last = runs.last, last.range.upperBound == vma.start, last.flags == flags {
        runs[runs.count - 1].range = last.range.lowerBound..<vma.end
        hasContent[runs.count - 1] = hasContent[runs.count - 1] || hasPages
      } else {
        runs.append((vma.start..<vma.end, flags))
        hasContent.append(hasPages)
      }
    }
    let full = zip(runs, hasContent).filter(\.1).map(\.0)
    self.runs = full.map(\.range)
    flags = full.map(\.flags)
    parts = task.placed(in: self.runs)
    guard parts.reduce(0, { $0 + UInt64($1.range.count) }) >= Self.least else { return nil }
    do throws(Errno) {
      image = try Descriptor.open(
        at: restore.directory.descriptor.rawValue, ImageFile.pages(task.pagesID).fileName, O_RDONLY | O_NOFOLLOW | O_CLOEXEC)
      imageSize = UInt64(try fstat(at: image.rawValue).st_size)
    } catch {
      return nil
    }
  }

  /// Whether the mapping at an address is full.
  func contains(_ address: UInt64) -> Bool {
    guard isDone else { return false }
    let index = firstRun(endingAbove: address)
    return index < runs.count && runs[index].contains(address)
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
    for (range, flags) in zip(runs, flags) {
      sequence.makeRoom(calls: 1)
      sequence.current.call(
        __NR_mmap, Argument(range.lowerBound), Argument(range.upperBound - range.lowerBound), Argument(PROT_NONE),
        Argument(UInt32(MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED) | flags), -1, 0, for: "reserving", range.lowerBound)
    }
    sequence.makeRoom(calls: 1)
    call = sequence.current.call(__NR_userfaultfd, Argument(Int(O_CLOEXEC) | 1 /* UFFD_USER_MODE_ONLY */), mayFail: true)
  }

  /// Fills the memory of a task whose program with the reservations has ended. `helper` does its part of it.
  public func run(_ task: RestoredTask, in slot: Slot, _ helper: Companion) throws(Failure) {
    guard let call else { return }
    let number = slot.result(call)
    if number < 0 { return }
    descriptor = Int32(number)
    guard let faults = try? register(task, Int32(number)) else { return }
    let work = Work(file: faults.rawValue, image: image.rawValue, imageSize: imageSize, parts: parts, window: Self.window)
    helper.start { () throws(Failure) in try work.takePart() }
    var own: Failure?
    do throws(Failure) { try work.takePart() } catch { own = error }
    var failure: Failure?
    do throws(Failure) { try helper.wait() } catch { failure = error }
    if let failure = own ?? failure { throw Failure("\(task.description): \(failure.cause)", advice: failure.advice) }
    for run in runs {
      var range = (run.lowerBound, run.upperBound - run.lowerBound)
      try about("\(task.description): UFFDIO_UNREGISTER") { () throws(Errno) in
        try withUnsafeMutablePointer(to: &range) { pointer throws(Errno) in
          _ = try syscall(__NR_ioctl, Int(faults.rawValue), Self.unregisterRequest, Int(bitPattern: pointer))
        }
      }
    }
    isDone = true
  }

  // linux/userfaultfd.h
  private static let apiRequest = 0xc018_aa3f
  private static let registerRequest = 0xc020_aa00
  private static let unregisterRequest = 0x8010_aa01
  fileprivate static let copyRequest = 0xc028_aa03

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

  /// What both threads do: whoever is ready takes the next window of the image.
  private final class Work: @unchecked Sendable {
    private let file: Int32
    private let image: Int32
    private let imageSize: UInt64
    private let parts: [Pages.Placed]
    private let window: UInt64
    private let first: UInt64
    private let count: UInt32
    /// How many windows have been taken. A word of the heap, for both to see.
    private let taken = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)

    init(file: Int32, image: Int32, imageSize: UInt64, parts: [Pages.Placed], window: UInt64) {
      self.file = file
      self.image = image
      self.imageSize = imageSize
      self.parts = parts
      self.window = window
      first = (parts.first?.offset ?? 0) / window
      let end = parts.last.map { $0.offset + UInt64($0.range.count) } ?? 0
      count = UInt32((end + window - 1) / window - first)
      taken.pointee = 0
    }

    deinit { taken.deallocate() }

    func takePart() throws(Failure) {
      var place = 0
      defer { if place != 0 { _ = cl_syscall(Int(__NR_munmap), place, Int(window), 0, 0, 0, 0) } }
      var index = 0
      while true {
        let next = cl_add32(taken, 1)
        if next >= count { return }
        let start = (first + UInt64(next)) * window
        let end = min(start + window, imageSize)
        do throws(Errno) {
          index = firstPart(endingAbove: start, from: index)
          guard index < parts.count, parts[index].offset < end else { continue }
          // 0x8000: MAP_POPULATE. The window before it is replaced.
          place = try syscall(
            __NR_mmap, place, Int(place == 0 ? window : end - start), Int(PROT_READ),
            Int(MAP_SHARED) | 0x8000 | (place == 0 ? 0 : Int(MAP_FIXED)), Int(image), Int(start))
          try copy(start..<end, from: UInt64(place), index)
        } catch {
          // The others take nothing more either.
          cl_store32(taken, count)
          throw Failure("filling its memory from 0x\(String(parts[index].range.lowerBound, radix: 16)): UFFDIO_COPY", error)
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

    private func copy(_ window: Range<UInt64>, from place: UInt64, _ first: Int) throws(Errno) {
      for part in parts[first...] {
        if part.offset >= window.upperBound { return }
        var from = max(part.offset, window.lowerBound)
        let end = min(part.offset + UInt64(part.range.count), window.upperBound)
        while from < end {
          // struct uffdio_copy: where to, where from, length, UFFDIO_COPY_MODE_DONTWAKE, how much came
          var arguments: (UInt64, UInt64, UInt64, UInt64, Int64) = (
            part.range.lowerBound + (from - part.offset), place + (from - window.lowerBound), end - from, 1, 0
          )
          let result = withUnsafeMutablePointer(to: &arguments) {
            cl_syscall(Int(__NR_ioctl), Int(file), Filling.copyRequest, Int(bitPattern: $0), 0, 0, 0)
          }
          if result == 0 {
            from = end
          } else if result == -Int(EAGAIN) {
            from += UInt64(max(arguments.4, 0))
          } else {
            throw Errno(rawValue: Int32(-result))
          }
        }
      }
    }
  }
}

extension RestoredTask {
  /// The pages in ascending ranges of memory, and where they are in the image.
  func placed(in ranges: [Range<UInt64>]) -> [Pages.Placed] {
    var list: [Pages.Placed] = []
    var offset: UInt64 = 0
    var index = 0
    for (range, _) in pages {
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
