import Checkpoint
import Glibc
import Linux
import Resources
import SystemPackage

/// Reads what the images say of each task, and has it looked at.
///
/// In a tree of thousands, or one with very many mappings, that is done for some at a time, which rest as soon as they have been looked at
/// (``RestoredTask/rest()``): the restore of such a tree takes little more memory than that of a few.
final class TaskReading {
  private let restore: RestoreContext
  /// In the order of the tree.
  private(set) var tasks: [RestoredTask] = []
  /// For each task, the core images of its threads but the leader.
  private(set) var threadCores: [[CoreImage]] = []
  private(set) var examination = Examination()
  /// Whether tasks rest. Who has not the right to everything changes what the images say.
  private(set) var rests: Bool
  /// How many tasks have been looked at.
  private var examined = 0

  /// How many tasks or threads it takes for a second thread to be worth its while.
  private static let many = 32
  /// So many tasks are read in one go.
  private static let turn = 8
  /// From so many tasks on they rest. The environment variable `SWIFT_RESTORE_LARGE` has another number, so that small trees can be
  /// restored as large ones are.
  static let large = getenv("SWIFT_RESTORE_LARGE").flatMap { Int(String(cString: $0)) } ?? 4096
  /// So many are awake at the same time then.
  private static let company = max(min(64, large), 2)
  /// They also rest if the images of the mappings of all but the largest have so many bytes: what these say takes some three times as
  /// much.
  private static let largeMemory: UInt64 = large == 0 ? 0 : 2 << 20
  /// Of so many bytes are those who are awake.
  private static let companyMemory: UInt64 = 1 << 20

  init(_ tree: [PstreeEntry], _ restore: RestoreContext) {
    self.restore = restore
    rests = tree.count > Self.large && !restore.privileges.areLimited
    tasks.reserveCapacity(tree.count)
    threadCores.reserveCapacity(tree.count)
  }

  /// The tracer and its companion read many tasks by turns; or half of the threads each, if a task has many of these. The companion has
  /// gone when this returns.
  func run(_ tree: [PstreeEntry], isExamined: Bool) throws(Failure) {
    let companion = Companion()
    if max(tree.count, tree.map(\.threads.count).max() ?? 0) >= Self.many { companion.hire() }
    let (mine, theirs) = (TaskImages(restore), TaskImages(restore))
    let companies = try companies(of: tree, mine)
    if tree.count < Self.many, !rests {
      for (i, entry) in tree.enumerated() { add(try mine.read(entry, at: i, companion)) }
      return
    }
    // Which file a name leads to is known when all mount namespaces are.
    let atOnce = rests && isExamined && !restore.directory.hasAny("mountpoints-")
    for company in companies {
      try read(tree[company], mine, theirs, companion)
      guard rests else { continue }
      if atOnce { try examine() }
      for task in tasks[company] { task.rest() }
    }
    if rests, isExamined, !atOnce { try examineResting(mine) }
    // The program's code is large, and what comes now is other code.
    if rests { dropCode() }
  }

  /// Who is awake at the same time: all, unless they rest, which is found out with it.
  private func companies(of tree: [PstreeEntry], _ images: TaskImages) throws(Failure) -> [Range<Int>] {
    if tree.count < 2 || restore.privileges.areLimited { return [tree.indices] }
    var sizes: [UInt64] = []
    sizes.reserveCapacity(tree.count)
    for entry in tree { sizes.append(try images.size(of: .mm(entry.pid))) }
    if sizes.reduce(0, &+) &- (sizes.max() ?? 0) > Self.largeMemory { rests = true }
    if !rests { return [tree.indices] }
    var (companies, first, size): ([Range<Int>], Int, UInt64) = ([], 0, 0)
    for (i, own) in sizes.enumerated() {
      if i - first == Self.company || i > first && size &+ own > Self.companyMemory {
        companies.append(first..<i)
        (first, size) = (i, 0)
      }
      size &+= own
    }
    return companies + [first..<tree.count]
  }

  private typealias Turn = (index: Int, tasks: [TaskImages.Read])

  private func read(
    _ entries: ArraySlice<PstreeEntry>, _ mine: TaskImages, _ theirs: TaskImages, _ companion: Companion
  ) throws(Failure) {
    let size = min(Self.turn, max(entries.count / 4, 1))
    let turns = Turns((entries.count + size - 1) / size)
    func readTurns(_ images: TaskImages) throws(Failure) -> [Turn] {
      var list: [Turn] = []
      while let index = turns.next() {
        let first = entries.startIndex + index * size
        var read: [TaskImages.Read] = []
        for i in first..<min(first + size, entries.endIndex) { read.append(try images.read(entries[i], at: i, nil)) }
        list.append((index, read))
      }
      return list
    }
    var (mineRead, theirsRead): ([Turn], [Turn]) = ([], [])
    try companion.share(
      { () throws(Failure) in mineRead = try readTurns(mine) },
      { () throws(Failure) in theirsRead = try readTurns(theirs) })
    for turn in (mineRead + theirsRead).sorted(by: { $0.index < $1.index }) {
      for read in turn.tasks { add(read) }
    }
  }

  private func add(_ read: TaskImages.Read) {
    tasks.append(read.task)
    threadCores.append(read.others)
    restore.tasks[read.task.pid] = read.task
  }

  /// Looks at those that have not been looked at.
  func examine() throws(Failure) {
    try RestoredNamespaces.check(tasks[examined...], restore)
    try look(at: examined..<tasks.count)
  }

  /// The same, where they rest already.
  private func examineResting(_ images: TaskImages) throws(Failure) {
    try RestoredNamespaces.check(tasks[examined...], restore)
    for i in examined..<tasks.count {
      try images.wake(tasks[i], .all)
      try look(at: i..<(i + 1))
      tasks[i].rest()
    }
  }

  private func look(at places: Range<Int>) throws(Failure) {
    for i in places where !tasks[i].isZombie { try examination.look(at: tasks[i], threadCores[i], restore) }
    examined = places.upperBound
  }
}

/// What is found out of tasks while all that the images say of them is known.
struct Examination {
  private var memories: Set<UInt32> = []
  /// The highest number of a descriptor.
  private(set) var highestDescriptor: UInt32 = 2
  private(set) var occupied = OccupiedAddresses()
  /// Pages that have their bytes in the images.
  private(set) var pages: UInt64 = 0

  mutating func look(at task: RestoredTask, _ others: [CoreImage], _ restore: RestoreContext) throws(Failure) {
    guard memories.insert(task.ids.vmId).inserted else {
      throw Failure(
        "ids-\(task.pid).img: task \(task.pid) shares its memory with another process, which is not supported yet (clone-vm)")
    }
    try AddressSpace.check(task, restore)
    try DescriptorTable.check(task, restore)
    try FileSystemContext.check(task, restore)
    let cores = [task.image] + others
    try task.checkVDSO(cores, restore)
    for vma in task.memory.vmas where vma.status & (1 << 8) != 0 {
      let end = min(vma.pgoff, 1 << 62) &+ min(vma.end &- vma.start, 1 << 48)
      restore.sharedMemorySizes[vma.shmid] = max(restore.sharedMemorySizes[vma.shmid] ?? 0, end)
    }
    restore.concede(task, cores)
    for entry in task.descriptors { highestDescriptor = max(highestDescriptor, entry.fd) }
    occupied.add(task.memory.vmas)
    for page in task.pagemap where page.isRecorded { pages &+= page.pageCount }
  }
}

/// Where any task of a tree has memory, as far as the executors might live there.
struct OccupiedAddresses {
  private var ranges: [Range<UInt64>] = []
  /// Relatives have the same list (``RestoredTask/memory``).
  private var last: [VmaEntry] = []
  private var limit = 1 << 12

  /// Far from where the kernel puts a new program's own stack and vDSO, and from low memory.
  private static let window: Range<UInt64> = 0x2000_0000_0000..<0x7000_0000_0000
  /// Gaps that are smaller do not matter where there are very many.
  private static let least: UInt64 = 16 << 20

  mutating func add(_ vmas: [VmaEntry]) {
    if last.withUnsafeBufferPointer(\.baseAddress) == vmas.withUnsafeBufferPointer(\.baseAddress) { return }
    last = vmas
    for vma in vmas where vma.start < vma.end {
      let range = (vma.start..<vma.end).clamped(to: Self.window)
      if !range.isEmpty { ranges.append(range) }
    }
    if ranges.count > limit {
      merge(closer: Self.least)
      limit = max(limit, 2 * ranges.count)
    }
  }

  private mutating func merge(closer distance: UInt64) {
    var merged: [Range<UInt64>] = []
    for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
      if let last = merged.last, range.lowerBound <= last.upperBound &+ distance {
        merged[merged.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
      } else {
        merged.append(range)
      }
    }
    ranges = merged
  }

  /// The lowest address from which so many bytes are free in every task; nil if there is none.
  func gap(of size: UInt64) -> UInt64? {
    var candidate = Self.window.lowerBound
    for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) where range.upperBound > candidate {
      if range.lowerBound >= candidate + size { break }
      candidate = (range.upperBound + 0xf_ffff) & ~0xf_ffff
    }
    return candidate + size < Self.window.upperBound ? candidate : nil
  }
}
