import Checkpoint
import Linux
import Tracee

/// A thread's core image, held once for all who look at it: it is large.
public final class CoreImage {
  public internal(set) var entry: CoreEntry

  public init(_ entry: CoreEntry) { self.entry = entry }
}

/// A process under restore: its images, and the slots through which it is made.
public final class RestoredTask {
  /// PID in the namespace of the tree's root.
  public let pid: UInt32
  public let image: CoreImage
  public var core: CoreEntry { _read { yield image.entry } }
  public let ids: TaskKobjIdsEntry
  /// Its mappings, and where code, heap and stack are; relatives that have the same hold it in common.
  public var memory: MmEntry {
    _read { yield heldMemory.value }
    _modify { yield &heldMemory.value }
  }
  private var heldMemory: Held<MmEntry>
  public var fs: FsEntry?
  public var descriptors: [FdinfoEntry] = []
  public var pagesID: UInt32 = 0
  public var pagemap: [PagemapEntry] = []
  public var threads: [RestoredThread] = []
  /// Its root directory is this process's, not the recorded one (``Concessions``).
  public internal(set) var keepsRoot = false
  /// PID in the tracer's namespace, once it exists.
  public var tracerPID: Int32 = 0
  /// A descriptor number of the task that a file can be put at for a moment: nothing else comes there.
  public var scratchDescriptor: Int32 = -1

  public init(pid: UInt32, core: CoreImage, ids: TaskKobjIdsEntry, memory: MmEntry = MmEntry(), like relative: RestoredTask? = nil) {
    self.pid = pid
    image = core
    self.ids = ids
    if let relative, relative.memory == memory { heldMemory = relative.heldMemory } else { heldMemory = Held(memory) }
  }

  /// task_core_entry.task_state: 1 alive, 2 dead, 3 stopped; old writers have 6 for dead.
  public var isZombie: Bool { core.tc?.taskState == 2 || core.tc?.taskState == 6 }
  public var isStopped: Bool { core.tc?.taskState == 3 }

  public var description: String { "task \(pid) (\(core.task.comm.text))" }

  /// The ranges whose bytes are in the pages image, in its order; with each the relative that shares it copy-on-write.
  public func recordedPages() -> [RecordedPages] {
    pagemap.filter { ($0.flags ?? 4) & 4 != 0 }.map { ($0.vaddr..<($0.vaddr + $0.pageCount * 4096), $0.cowWithPid) }
  }

  public typealias RecordedPages = (range: Range<UInt64>, sharedWith: UInt32?)

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
  var foreignVDSO: (range: Range<UInt64>, bytes: [UInt8])?
  public var hasForeignVDSO: Bool { foreignVDSO != nil }

  private lazy var kernelMade = memory.vmas.filter(\.isKernelMade).map { $0.start..<$0.end }

  /// Whether an address lies in the vDSO or its data.
  func isKernelMade(_ address: UInt64) -> Bool { kernelMade.contains { $0.contains(address) } }

  func vmasChanged() { kernelMade = memory.vmas.filter(\.isKernelMade).map { $0.start..<$0.end } }

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
      if (entry.flags ?? 4) & 4 != 0 { total += entry.pageCount * 4096 }
    }
    // More bytes than that mean that the pagemap was cut short.
    guard total == size else {
      throw Failure(
        "pages-\(pagesID).img has \(size) bytes, \(image) counts \(total)",
        advice: "The images are damaged or incomplete; dump again.")
    }
  }
}
