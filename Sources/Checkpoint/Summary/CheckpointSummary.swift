/// What people ask of an image set: its tasks and what each of them holds.
///
/// It is read without the images that only a restore needs, and no kind of object is refused.
public struct CheckpointSummary: Sendable {
  public let inventory: InventoryEntry
  /// In the order of `pstree.img`.
  public let tasks: [TaskSummary]
  /// Memory that several tasks may share: shared anonymous mappings and memfds that have pages of their own.
  public let sharedMemory: [SharedMemorySummary]

  /// Reads the images of a folder; a set without its inventory is not whole, and not read.
  public init(_ directory: borrowing ImageDirectory) throws(ImageError) {
    inventory = try directory.read(from: .inventory)
    let files = try FileTable(directory)
    var memory = SharedMemoryIDs()
    for inode in files.memfds.values { memory.insert(UInt64(inode.shmid)) }
    var tasks: [TaskSummary] = []
    for entry in try directory.readAll(PstreeEntry.self, from: .pstree) {
      let perID = inventory.fdinfoPerId == true
      tasks.append(try TaskSummary(entry, files, fdinfoPerID: perID, in: directory, &memory))
    }
    guard !tasks.isEmpty else {
      throw ImageError(file: ImageFile.pstree.fileName, .missing(message: "pstree_entry"))
    }
    self.tasks = tasks
    sharedMemory = try memory.summaries(in: directory)
  }

  /// The tasks, each followed by its children, and how deep each is below the root. A task whose parent is not in
  /// the set stands at depth 0.
  public var tree: [(depth: Int, task: TaskSummary)] {
    var children: [UInt32: [Int]] = [:]
    let pids = Set(tasks.map(\.pid))
    var waiting: [(depth: Int, index: Int)] = []
    for (i, task) in tasks.enumerated() {
      if let parent = task.parent, pids.contains(parent), parent != task.pid {
        children[parent, default: []].append(i)
      } else {
        waiting.append((0, i))
      }
    }
    waiting.reverse()
    var order: [(depth: Int, task: TaskSummary)] = []
    var seen = [Bool](repeating: false, count: tasks.count)
    func follow() {
      while let (depth, index) = waiting.popLast() {
        if seen[index] { continue }
        seen[index] = true
        order.append((depth, tasks[index]))
        for child in (children[tasks[index].pid] ?? []).reversed() { waiting.append((depth + 1, child)) }
      }
    }
    follow()
    // Only a damaged set has tasks that are their own ancestors: they are shown all the same.
    for i in tasks.indices where !seen[i] {
      waiting.append((0, i))
      follow()
    }
    return order
  }
}

/// A piece of shared memory, and how much of it the set has.
public struct SharedMemorySummary: Sendable {
  /// The N of `pagemap-shmem-N.img`.
  public var id: UInt32
  /// Pages whose bytes are in the set.
  public var dumpedPages: UInt64
}

/// The shared memory that tasks refer to.
struct SharedMemoryIDs {
  private var ids: Set<UInt32> = []

  mutating func insert(_ id: UInt64) {
    if let id = UInt32(exactly: id) { ids.insert(id) }
  }

  /// Memory that was never touched has no image.
  func summaries(in directory: borrowing ImageDirectory) throws(ImageError) -> [SharedMemorySummary] {
    var summaries: [SharedMemorySummary] = []
    for id in ids.sorted() where directory.contains(.pagemapShmem(id)) {
      let pages = try PageCount(.pagemapShmem(id), in: directory)
      summaries.append(SharedMemorySummary(id: id, dumpedPages: pages.dumped))
    }
    return summaries
  }
}

/// What a page map counts.
struct PageCount {
  /// Pages whose bytes are in the set.
  private(set) var dumped: UInt64 = 0
  /// Pages whose bytes are in the set that this one builds upon.
  private(set) var inParent: UInt64 = 0

  init(_ file: ImageFile, in directory: borrowing ImageDirectory) throws(ImageError) {
    var image = try ImageReader(file, in: directory)
    guard try image.next(PagemapHead.self) != nil else {
      throw ImageError(file: file.fileName, .missing(message: "pagemap_head"))
    }
    while let entry = try image.next(PagemapEntry.self) {
      let pages = entry.nrPages ?? UInt64(entry.compatNrPages)
      // A set without flags says "in the parent" with a field of its own, and everything else is there.
      let isInParent = entry.flags.map { $0 & 1 != 0 } ?? (entry.inParent == true)
      let isPresent = entry.flags.map { $0 & 4 != 0 } ?? !isInParent
      guard pages <= 1 << 40 else {
        throw ImageError(
          file: file.fileName, entry: image.entry - 1,
          .malformed(message: "pagemap_entry", detail: "\(pages) pages are more than any task can have"))
      }
      if isPresent { dumped += pages }
      if isInParent { inParent += pages }
    }
  }
}
