import Checkpoint
import Linux
import Tracee

/// A thread's core image, held once for all who look at it: it is large.
public final class CoreImage {
  public internal(set) var entry: CoreEntry

  public init(_ entry: CoreEntry) { self.entry = entry }
}

/// A process under restore: its images, and the slots through which it is made.
///
/// In a tree of thousands, or one with very many mappings, most tasks rest most of the time (``rest()``): of what the images say of one,
/// only that is held which it has in common with a relative, and what its threads do if it has several. The rest is read again when it is
/// its turn.
public final class RestoredTask {
  /// PID in the namespace of the tree's root.
  public let pid: UInt32
  /// Its place among the tasks of the tree.
  public let index: Int32
  public let image: CoreImage
  /// But for what it says of the thread it is there always.
  public var core: CoreEntry { _read { yield image.entry } }
  /// The objects that it may share with others; the namespaces are mostly those of its relatives.
  public var ids: TaskKobjIdsEntry {
    var ids = namespaces.value
    (ids.vmId, ids.filesId, ids.fsId, ids.sighandId) = ownIDs
    return ids
  }
  private let ownIDs: (UInt32, UInt32, UInt32, UInt32)
  private let namespaces: Held<TaskKobjIdsEntry>
  /// Its mappings, and where code, heap and stack are; relatives that have the same hold it in common.
  public var memory: MmEntry {
    _read {
      precondition(!forgotten.contains(.memory))
      yield heldMemory.value
    }
    _modify {
      precondition(!forgotten.contains(.memory))
      isChanged = true
      yield &heldMemory.value
    }
  }
  private var heldMemory: Held<MmEntry>
  public var fs: FsEntry?
  public var descriptors: [FdinfoEntry] {
    precondition(!forgotten.contains(.descriptors))
    return heldDescriptors
  }
  private var heldDescriptors: [FdinfoEntry] = []
  public var pagesID: UInt32 = 0
  public var pagemap: [PagemapEntry] {
    precondition(!forgotten.contains(.pagemap))
    return heldPagemap
  }
  private var heldPagemap: [PagemapEntry] = []
  public private(set) var pages = PageSums()
  public var threads: [RestoredThread] = []
  /// What it has in common with nobody, and does not hold while it rests.
  private var own: Parts = []
  /// What it does not hold now.
  public private(set) var forgotten: Parts = []
  /// What is known of it is not what the images say any more.
  var isChanged = false
  /// It has more threads than one. What these were doing is known while it rests, too.
  public var hasThreads = false
  /// Its root directory is this process's, not the recorded one (``Concessions``).
  public internal(set) var keepsRoot = false
  /// PID in the tracer's namespace, once it exists.
  public var tracerPID: Int32 = 0
  /// A descriptor number of the task that a file can be put at for a moment: nothing else comes there.
  public var scratchDescriptor: Int32 = -1

  public init(
    pid: UInt32, at index: Int, core: CoreImage, ids: TaskKobjIdsEntry, memory: MmEntry = MmEntry(), like relative: Relative? = nil
  ) {
    self.pid = pid
    self.index = Int32(index)
    image = core
    ownIDs = (ids.vmId, ids.filesId, ids.fsId, ids.sighandId)
    var common = ids
    (common.vmId, common.filesId, common.fsId, common.sighandId) = (0, 0, 0, 0)
    if let relative, relative.namespaces.value == common { namespaces = relative.namespaces } else { namespaces = Held(common) }
    if let relative, relative.memory.value == memory {
      heldMemory = relative.memory
    } else {
      heldMemory = Held(memory)
      own.insert(.memory)
    }
  }

  /// task_core_entry.task_state: 1 alive, 2 dead, 3 stopped; old writers have 6 for dead.
  public var isZombie: Bool { core.tc?.taskState == 2 || core.tc?.taskState == 6 }
  public var isStopped: Bool { core.tc?.taskState == 3 }

  public var description: String { "task \(pid) (\(core.task.comm.text))" }

  /// The ranges whose bytes are in the pages image, in its order; with each the relative that shares it copy-on-write.
  public func recordedPages() -> RecordedPages {
    RecordedPages(pagemap.allSatisfy(\.isRecorded) ? pagemap : pagemap.filter(\.isRecorded))
  }

  /// The task whose memory the stub was born with; `nil` if there was none in its parent yet.
  public var donor: RestoredTask?
  /// What it needs nobody else for has been appended to its programs, with its memory or after it.
  public var isEquipped = false
  /// Its mappings and pages are in place.
  public var hasMemory = false
  /// The call that sets the fields of its mm has been appended.
  var hasFields = false
  /// Set if it is large: how it gets most of its memory.
  public var filling: Filling?
  /// Where the stub has the vDSO's data and the vDSO now: the lowest address.
  public var vdsoBase: UInt64 = 0

  /// Its vDSO was seen to be this kernel's.
  var hasOwnVDSO = false
  /// Where the vDSO of another kernel was, and its bytes, if it had one.
  var foreignVDSO: ForeignVDSO?
  public var hasForeignVDSO: Bool { foreignVDSO != nil }

  private var kernelMade: [Range<UInt64>]?

  /// Whether an address lies in the vDSO or its data.
  func isKernelMade(_ address: UInt64) -> Bool {
    let ranges = kernelMade ?? memory.vmas.filter(\.isKernelMade).map { $0.start..<$0.end }
    kernelMade = ranges
    return ranges.contains { $0.contains(address) }
  }

  func vmasChanged() { kernelMade = nil }

  /// Where vvar and vDSO were: they are next to each other, and mostly among the last.
  public var vdso: (vvar: Range<UInt64>?, vdso: Range<UInt64>?) {
    func range(_ kind: VMAStatus) -> Range<UInt64>? {
      memory.vmas.last { $0.kinds.contains(kind) && $0.start < $0.end }.map { $0.start..<$0.end }
    }
    return (range(.vvar), range(.vdso))
  }

  /// Checks the page map against the mappings and the size of the pages image in bytes.
  public func checkPages(size: UInt64) throws(Failure) {
    let image = "pagemap-\(pid).img"
    var end: UInt64 = 0
    var total: UInt64 = 0
    var index = 0
    let vmas = memory.vmas
    for entry in pagemap {
      var place: String { "\(image): \(entry.pageCount) pages at 0x\(String(entry.vaddr, radix: 16))" }
      guard entry.vaddr % 4096 == 0, entry.vaddr >= end, entry.pageCount <= 1 << 36,
        entry.vaddr <= AddressSpace.userSpaceEnd
      else { throw Failure("\(place): not a page range above the one before") }
      if entry.inParent == true || (entry.flags ?? 4) & 5 == 1 {
        throw Failure(
          "\(place) are in a parent checkpoint: incremental images cannot be restored yet (parent)")
      }
      end = entry.vaddr + entry.pageCount * 4096
      var at = entry.vaddr
      while at < end {
        while index < vmas.count, vmas[index].end <= at || vmas[index].kinds.contains(.guardPages) { index += 1 }
        guard index < vmas.count, vmas[index].start <= at else {
          throw Failure("\(place) lie outside of the mappings")
        }
        at = vmas[index].end
      }
      if entry.isRecorded { total += entry.pageCount * 4096 }
    }
    // More bytes than that mean that the pagemap was cut short.
    guard total == size else {
      throw Failure(
        "pages-\(pagesID).img has \(size) bytes, \(image) counts \(total)",
        advice: "The images are damaged or incomplete; dump again.")
    }
  }
}

/// Another kernel's vDSO.
final class ForeignVDSO {
  let range: Range<UInt64>
  let bytes: [UInt8]

  init(_ range: Range<UInt64>, _ bytes: [UInt8]) { (self.range, self.bytes) = (range, bytes) }
}

/// What is known of a page map when that is not.
public struct PageSums: Sendable {
  /// Bytes of all pages.
  public private(set) var bytes: UInt64 = 0
  /// The relative that shares some copy-on-write, 0 for none; and whether there are several.
  private var relative: UInt32 = 0
  private var hasSeveral = false
  /// Those that are shared with none are many (``Filling/least``).
  public private(set) var areMany = false

  init() {}

  init(_ pagemap: [PagemapEntry]) {
    var own: UInt64 = 0
    for entry in pagemap {
      bytes &+= entry.pageCount &* 4096
      guard let other = entry.cowWithPid else {
        own &+= entry.pageCount &* 4096
        continue
      }
      hasSeveral = hasSeveral || relative != 0 && relative != other
      relative = other
    }
    areMany = own >= Filling.least
  }

  /// Whether some are shared with a relative.
  public func areShared(with pid: UInt32) -> Bool { hasSeveral || relative == pid }
}

/// Ranges of pages, as entries of a page map have them.
public struct RecordedPages: RandomAccessCollection {
  private let entries: [PagemapEntry]

  init(_ entries: [PagemapEntry]) { self.entries = entries }

  public var startIndex: Int { 0 }
  public var endIndex: Int { entries.count }

  public subscript(index: Int) -> (range: Range<UInt64>, sharedWith: UInt32?) {
    let entry = entries[index]
    return (entry.vaddr..<(entry.vaddr + entry.pageCount * 4096), entry.cowWithPid)
  }

  /// Without those that a relative has.
  func without(sharedWith relative: UInt32) -> RecordedPages { RecordedPages(entries.filter { $0.cowWithPid != relative }) }
}

extension PagemapEntry {
  /// Its bytes are in the pages image (PE_PRESENT, which old writers do not set).
  public var isRecorded: Bool { (flags ?? 4) & 4 != 0 }
}

// MARK: - Resting

extension RestoredTask {
  /// What is in images of its own.
  public struct Parts: OptionSet, Sendable {
    public let rawValue: UInt8
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    public static var memory: Parts { Parts(rawValue: 1) }
    public static var pagemap: Parts { Parts(rawValue: 2) }
    public static var descriptors: Parts { Parts(rawValue: 4) }
    /// The registers, and what else its only thread has.
    public static var thread: Parts { Parts(rawValue: 8) }
    public static var all: Parts { [.memory, .pagemap, .descriptors, .thread] }
    /// What it is given before its threads get their states.
    public static var belongings: Parts { [.memory, .pagemap, .descriptors] }
  }

  /// What relatives may have in common with a task: it stays when the task rests.
  public struct Relative {
    public let image: CoreImage
    public let descriptors: [FdinfoEntry]
    public let pagemap: [PagemapEntry]
    let memory: Held<MmEntry>
    let namespaces: Held<TaskKobjIdsEntry>
    /// Of its memory those parts that others may have too.
    public var vmas: [VmaEntry] { memory.value.vmas }
    public var auxiliaryVector: [UInt64] { memory.value.mmSavedAuxv }
  }

  public var relative: Relative {
    Relative(image: image, descriptors: heldDescriptors, pagemap: heldPagemap, memory: heldMemory, namespaces: namespaces)
  }

  /// Sets what its lists say. What is a relative's too is held once.
  public func take(descriptors: [FdinfoEntry], pagemap: [PagemapEntry], like relative: Relative?) {
    if let relative, relative.descriptors == descriptors {
      heldDescriptors = relative.descriptors
    } else {
      heldDescriptors = descriptors
      own.insert(.descriptors)
    }
    if let relative, relative.pagemap == pagemap {
      heldPagemap = relative.pagemap
    } else {
      heldPagemap = pagemap
      own.insert(.pagemap)
    }
    pages = PageSums(pagemap)
  }

  /// Whether it may be forgotten what the images say of it.
  private var mayRest: Bool { !isZombie && !isChanged && !hasForeignVDSO }

  /// Whether it has one thread only, which is not traced before all are.
  private var mayForgetThread: Bool { !hasThreads && !isSeized && core.threadCore?.seccompMode?.rawValue ?? 0 == 0 }

  private var isSeized: Bool { threads.first?.isAttached ?? false }

  /// Forgets what can be read again. Only what relatives have too, and what it was doing, is known of it then.
  public func rest() {
    guard mayRest else { return }
    forgotten.formUnion(own)
    if own.contains(.memory) { heldMemory = Self.nothing }
    if own.contains(.pagemap) { heldPagemap = [] }
    if own.contains(.descriptors) { heldDescriptors = [] }
    kernelMade = nil
    guard forgotten.contains(.thread) || mayForgetThread else { return }
    forgotten.insert(.thread)
    (image.entry.threadInfo, image.entry.threadCore) = (nil, nil)
    threads = []
  }

  private static let nothing = Held(MmEntry())

  /// Has it know again what it forgot of these when it went to rest; `read` says what the images say.
  public func wake(_ parts: Parts, _ read: (Parts) throws(Failure) -> Forgotten) throws(Failure) {
    let missing = forgotten.intersection(parts)
    if missing.isEmpty { return }
    let found = try read(missing)
    if missing.contains(.memory) { heldMemory = Held(found.memory) }
    if missing.contains(.pagemap) { heldPagemap = found.pagemap }
    if missing.contains(.descriptors) { heldDescriptors = found.descriptors }
    if missing.contains(.thread) {
      image.entry.$threadInfo = found.core.$threadInfo
      image.entry.$threadCore = found.core.$threadCore
    }
    forgotten.subtract(missing)
  }

  /// What a task that rested is told.
  public struct Forgotten {
    public var memory = MmEntry()
    public var pagemap: [PagemapEntry] = []
    public var descriptors: [FdinfoEntry] = []
    public var core = CoreEntry()

    public init() {}
  }
}
