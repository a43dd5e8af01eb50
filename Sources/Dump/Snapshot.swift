import Checkpoint
import Glibc
import Linux
import Resources
import SystemPackage
import Tracee

/// `--snapshot`: what the memory of a frozen tree holds at one instant, kept by copy-on-write forks of its tasks (``TaskCopy``), and
/// written by these when the tree runs on.
///
/// A fork leaves some memory behind: what is marked MADV_DONTFORK or MADV_WIPEONFORK, and huge pages of hugetlbfs, which the
/// kernel takes away from a child when they run out. Tasks that have such, or could not make a child of their own kind, write their memory
/// while they are frozen, as without `--snapshot`. So does all memory that tasks share.
final class Snapshot {
  private struct Part {
    var task: DumpedTask
    var copy: TaskCopy
    var hasFileLimit: Bool
  }

  private let dump: DumpContext
  /// What has the copies' executors end when the tracer dies: it has to last as long as they.
  var deadManSwitch: DeadManSwitch?
  /// Copies that wait for their turn to write.
  private var parts: [Part] = []
  /// Those that have written, and that children are still to be compared with.
  private var parents: [Part] = []

  private let foresight: Foresight?

  init(_ dump: DumpContext, _ foresight: Foresight?) {
    self.dump = dump
    self.foresight = foresight
  }

  /// Makes copies of tasks, and returns the others: they have to write their memory now.
  func take(_ tasks: [DumpedTask]) throws(Failure) -> [DumpedTask] {
    var left: [DumpedTask] = []
    var begun: [(task: DumpedTask, process: TracedProcess, program: SyscallProgram)] = []
    for task in tasks {
      if !task.isZombie, Self.canCopy(task), let process = task.process, let program = process.beginCopy() {
        begun.append((task, process, program))
      } else {
        left.append(task)
      }
    }
    // Whatever fails, the copies that were begun are all taken in: they have to be ended.
    var failures: [Failure] = []
    var births: [(copy: TaskCopy, program: SyscallProgram)] = []
    for (task, process, program) in begun {
      do throws(Failure) {
        guard let copy = try process.finishCopy(program, sharesNumbers: task.pidNamespace == PIDNamespaces.ownID) else {
          left.append(task)
          continue
        }
        task.copy = copy.pid
        parts.append(Part(task: task, copy: copy, hasFileLimit: MemoryTransfer.hasFileLimit(task)))
        births.append((copy, copy.beginLife()))
      } catch {
        failures.append(error)
      }
    }
    for (copy, program) in births {
      do throws(Failure) { try copy.finish(program) } catch { failures.append(error) }
    }
    if let failure = failures.first { throw failure }
    for task in left where task.isForeseen {
      try foresight?.compare(task, smaps: try about(task.description) { () throws(Errno) in try task.directory.open("smaps") })
    }
    return left
  }

  private static func canCopy(_ task: DumpedTask) -> Bool {
    guard task.pidNamespaceForChildren == nil, task.threads.allSatisfy({ $0.status.seccompMode == 0 }) else { return false }
    return task.mappings.allSatisfy { mapping in
      mapping.isShared || mapping.flags.isDisjoint(with: [.dontCopy, .wipeOnFork, .hugeTLB])
    }
  }

  /// Has the copies write, and ends them. When this throws, ``end()`` is still to be called.
  func write(_ images: ImageSet, _ scan: MemoryScan) throws(Failure) {
    let begin = nanoseconds()
    for part in parts where part.task.isForeseen {
      let smaps = "/proc/\(part.copy.pid)/smaps"
      try foresight?.compare(part.task, smaps: try about(smaps) { () throws(Errno) in try Descriptor.open(smaps) })
    }
    while !parts.isEmpty {
      try Interruption.check()
      let batch = Array(parts.prefix(Batches.size))
      let memory = try scan.find(batch.map(\.task))
      var transfers: [MemoryTransfer] = []
      for (part, memory) in zip(batch, memory) {
        let file = try dump.createPages(memory.id)
        if memory.pages.ranges.isEmpty { continue }
        transfers.append(MemoryTransfer(part.task, part.copy, memory.pages, to: file, hasFileLimit: part.hasFileLimit))
      }
      try MemoryTransfer.begin(transfers)
      do throws(Failure) {
        try images.part([], memory).write()
        try MemoryTransfer.finish(transfers)
      } catch {
        MemoryTransfer.end(transfers)
        throw error
      }
      parts.removeFirst(batch.count)
      parents += batch.filter { $0.task.hasChildren }
      end(batch.filter { !$0.task.hasChildren })
      for part in batch { scan.forget(part.task) }
    }
    let last = parents
    parents = []
    end(last)
    dump.statistics.memwriteTime += UInt32(clamping: (nanoseconds() - begin) / 1000)
    dump.statistics.memdumpTime = dump.statistics.memwriteTime
  }

  /// Ends what copies there are. The tasks have been let go of.
  func end() {
    let last = parts + parents
    parts = []
    parents = []
    end(last)
  }

  private func end(_ parts: [Part]) {
    for part in parts { part.copy.beginEnd() }
    for part in parts where !part.copy.end() {
      dump.warnings.append(
        "task \(part.task.pid) could not be made to wait for its copy \(part.copy.pid), a zombie until the task does, or ends")
    }
  }
}
