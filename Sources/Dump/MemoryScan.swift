import Checkpoint
import Linux
import Resources
import SystemPackage

/// Finds the pages of tasks that are to be written. That is a matter of `/proc`, so whoever has time does it: the companion, ahead of
/// the tracer; for the copies of a snapshot the tracer. One thread at a time may use it.
final class MemoryScan {
  /// The pages of a task, and the N of their image.
  struct Found {
    var task: DumpedTask
    var id: UInt32
    var pages: Pages
  }

  private let dump: DumpContext
  private let byPID: [Int32: DumpedTask]
  /// Of tasks whose children are still to be compared with them.
  private var known: [Int32: Pages] = [:]
  private var frames = ParentFrames()
  private var scanned: UInt64 = 0
  private var written: UInt64 = 0
  private var lacksGuards = false

  init(_ dump: DumpContext, _ byPID: [Int32: DumpedTask]) {
    self.dump = dump
    self.byPID = byPID
  }

  /// Finds the pages of tasks that have been recorded. Parents come before their children.
  func find(_ tasks: [DumpedTask]) throws(Failure) -> [Found] {
    var list: [Found] = []
    for task in tasks where !task.isZombie {
      let pagemap = try about(
        "\(task.description): opening pagemap", advice: "This needs CAP_SYS_PTRACE; run as root."
      ) { () throws(Errno) in try task.openPagemap() }
      var pages = try Pages(scanning: task, pagemap)
      if pages.lacksGuards { lacksGuards = true }
      if let parent = byPID[task.parent], let parentPages = known[task.parent] {
        try pages.findShared(task, pagemap, with: parent, parentPages, &frames)
      }
      task.memory.vmas += pages.guardEntries
      known[task.pid] = pages
      list.append(Found(task: task, id: dump.nextPagesImage(), pages: pages))
      scanned += pages.scanned
      written += pages.pageCount
    }
    return list
  }

  /// What there is to say when all has been found.
  func noteStatistics() {
    dump.statistics.pagesScanned += scanned
    dump.statistics.pagesWritten += written
    if lacksGuards {
      dump.warnings.append(
        "this kernel does not tell where guard regions are (PAGE_IS_GUARD of PAGEMAP_SCAN, Linux 6.15): those that the tree may have come back as plain memory"
      )
    }
  }

  /// Lets go of what no child will be compared with.
  func forget(_ task: DumpedTask) {
    if task.hasChildren { return }
    known[task.pid] = nil
    task.forgetMappings()
  }
}
