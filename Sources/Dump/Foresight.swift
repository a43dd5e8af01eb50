import Linux
import Resources
import SystemPackage

/// `--snapshot`: what smaps says of the mappings of large processes, read before they are frozen. The kernel looks at every page for it,
/// which takes half as long as the fork that the freeze is for.
///
/// In the frozen process only `maps` is read. Where that says the same, the flags of before are taken for those of now, and compared
/// with those of the copy when the tree runs on: a fork keeps all that it does not show by leaving the mapping out. What it takes away is
/// the lock on memory, so that a process with locked memory is read while it is frozen, like any that has changed its mappings.
final class Foresight {
  private var known: [Int32: [Mapping]] = [:]
  private let buffer = ReadBuffer()

  /// Something was not as it had been foreseen: what was written of it is wrong.
  private(set) var wasWrong = false

  /// In smaller ones smaps takes a tenth of a millisecond at most.
  private static let leastPages: UInt64 = 16 << 8

  /// Looks at a tree that runs. What cannot be read now will be when it is frozen.
  init(root: Int32) { look(at: root) }

  private func look(at pid: Int32) {
    guard let directory = try? ProcDirectory(pid: pid) else { return }
    if let text = try? directory.read("statm", buffer) {
      var statm = ByteCursor(text)
      _ = statm.unsigned()
      statm.skip()
      if statm.unsigned() >= Self.leastPages, let file = try? directory.open("smaps") {
        known[pid] = try? Mapping.readAll(file.rawValue, buffer)
      }
    }
    for tid in (try? directory.numbers(in: "task", buffer)) ?? [] {
      for child in (try? directory.children(of: tid, buffer)) ?? [] where known[child] == nil { look(at: child) }
    }
  }

  /// The mappings of a process, which was frozen since; `nil` if they were not foreseen.
  func mappings(of task: Glance.Place, _ status: ProcStatus, _ buffer: ReadBuffer) throws(Errno) -> [Mapping]? {
    guard let foreseen = known[task.pid], status.lockedKB == 0, !foreseen.contains(where: { $0.flags.contains(.locked) }) else {
      return nil
    }
    let maps = try task.folder.open("maps")
    let now = try Mapping.readAll(maps.rawValue, buffer)
    guard now.elementsEqual(foreseen, by: { $0.hasSamePlace(as: $1) }) else { return nil }
    return foreseen
  }

  /// Throws if the flags that were foreseen are not those which an open smaps shows, of the process or of its copy.
  func compare(_ task: DumpedTask, smaps: borrowing Descriptor) throws(Failure) {
    let descriptor = smaps.rawValue
    let now = try about("\(task.description): reading smaps") { () throws(Errno) in try Mapping.readAll(descriptor, buffer) }
    let byStart = Dictionary(now.map { ($0.start, $0) }, uniquingKeysWith: { first, _ in first })
    if known[task.pid]?.allSatisfy({ byStart[$0.start] == $0 }) ?? true { return }
    wasWrong = true
    throw Failure(
      "\(task.description) changed the flags of a mapping in the moment before it was frozen (madvise)", advice: "Try again.")
  }
}

extension Mapping {
  /// Whether `maps` has the same line for both.
  fileprivate func hasSamePlace(as other: Mapping) -> Bool {
    var other = other
    (other.flags, other.kernelPageSizeKB) = (flags, kernelPageSizeKB)
    return self == other
  }
}
