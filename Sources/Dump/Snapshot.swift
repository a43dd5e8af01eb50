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
    var memory: Collector.Memory
    var copy: TaskCopy
    var hasFileLimit: Bool
    var vdso: UInt64
  }

  private let dump: DumpContext
  /// What has the copies' executors end when the tracer dies: it has to last as long as they.
  var deadManSwitch: DeadManSwitch?
  private var parts: [Part] = []
  /// Until here copies are gone.
  private var ended = 0

  init(_ dump: DumpContext) { self.dump = dump }

  /// Makes copies of tasks, and returns those that have to write their memory now.
  func take(_ memory: [Collector.Memory]) throws(Failure) -> [Collector.Memory] {
    var left: [Collector.Memory] = []
    var begun: [(memory: Collector.Memory, program: SyscallProgram)] = []
    for one in memory {
      if !one.pages.ranges.isEmpty, Self.canCopy(one.task), let program = one.process.beginCopy() {
        begun.append((one, program))
      } else {
        left.append(one)
      }
    }
    var births: [(part: Part, program: SyscallProgram)] = []
    for (one, program) in begun {
      let copy = try one.process.finishCopy(program, sharesNumbers: one.task.pidNamespace == PIDNamespaces.ownID)
      guard let copy else {
        left.append(one)
        continue
      }
      let part = Part(
        memory: one, copy: copy, hasFileLimit: MemoryTransfer.hasFileLimit(one.task), vdso: one.process.vdso)
      parts.append(part)
      births.append((part, copy.beginLife()))
    }
    for (part, program) in births { try part.copy.finish(program) }
    return left
  }

  private static func canCopy(_ task: DumpedTask) -> Bool {
    guard task.pidNamespaceForChildren == nil, task.threads.allSatisfy({ $0.status.seccompMode == 0 }) else { return false }
    return task.mappings.allSatisfy { mapping in
      mapping.isShared || mapping.flags.isDisjoint(with: [.dontCopy, .wipeOnFork, .hugeTLB])
    }
  }

  /// Has the copies write, and ends them. When this throws, ``end()`` is still to be called.
  func write() throws(Failure) {
    let begin = nanoseconds()
    for start in stride(from: 0, to: parts.count, by: 64) {
      try Interruption.check()
      let batch = parts[start..<min(start + 64, parts.count)]
      var transfers: [MemoryTransfer] = []
      for part in batch {
        transfers.append(
          MemoryTransfer(
            part.memory.task, part.copy, part.memory.pages, to: try dump.createPages(part.memory.id),
            hasFileLimit: part.hasFileLimit))
      }
      try MemoryTransfer.begin(transfers)
      do throws(Failure) {
        try MemoryTransfer.finish(transfers)
      } catch {
        MemoryTransfer.end(transfers)
        throw error
      }
      try end(batch)
    }
    dump.statistics.memwriteTime += UInt32(clamping: (nanoseconds() - begin) / 1000)
    dump.statistics.memdumpTime = dump.statistics.memwriteTime
  }

  /// Ends what copies there are. The tasks have been let go of.
  func end() {
    do throws(Failure) { try end(parts[ended...]) } catch {}  // another failure is told
  }

  private func end(_ batch: ArraySlice<Part>) throws(Failure) {
    for part in batch { part.copy.beginEnd() }
    ended = batch.endIndex
    var failure: Failure?
    for part in batch {
      do throws(Failure) {
        try part.copy.end(vdso: part.vdso)
      } catch {
        failure = failure ?? error
      }
    }
    if let failure { throw failure }
  }
}
