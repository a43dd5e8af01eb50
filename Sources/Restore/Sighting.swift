import CLinux
import Glibc
import Linux
import ProcessTree
import SystemPackage

/// A process or thread as this process sees it.
struct Sighting {
  let pid: Int32
  /// Its PIDs from this process's namespace inwards (`NSpid:`); empty if it is gone.
  let numbers: [Int32]
  let parent: Int32

  init(_ pid: Int32) {
    self.pid = pid
    let buffer = ReadBuffer()
    guard let directory = try? ProcDirectory(pid: pid), let text = try? directory.read("status", buffer) else {
      (numbers, parent) = ([], 0)
      return
    }
    let status = ProcStatus(text)
    (numbers, parent) = (status.nsPid, status.ppid)
  }

  /// The number so many levels below this process's namespace.
  func number(at depth: Int) -> Int32 { numbers.indices.contains(depth) ? numbers[depth] : 0 }

  /// The children of a process, who came last first (man 5 proc_tid_children).
  static func children(of pid: Int32) -> [Int32] {
    let buffer = ReadBuffer()
    guard let directory = try? ProcDirectory(pid: pid), let list = try? directory.children(of: pid, buffer) else { return [] }
    return list.reversed()
  }

  /// The threads of a process.
  static func threads(of pid: Int32) -> [Int32] {
    let buffer = ReadBuffer()
    guard let directory = try? ProcDirectory(pid: pid), let list = try? directory.numbers(in: "task", buffer) else { return [] }
    return list.reversed()
  }
}

extension Forking {
  /// Finds who was born: the parent knows the child's number in its own namespace only.
  func sight(_ birth: Birth) throws(Failure) -> Sighting {
    let number = Int32(truncatingIfNeeded: birth.slot.result(birth.call))
    let depth = level(of: birth.parent) - plan.levels.tool
    guard let parent = construction.tracerPID(of: birth.parent) else {
      throw Failure("\(construction.name(birth.parent)) has a child, but does not exist")
    }
    if depth == 0 { return Sighting(number) }
    let candidates: [Int32]
    if case .thread = birth.child {
      candidates = Sighting.threads(of: parent)
    } else {
      candidates = Sighting.children(of: parent) + Sighting.children(of: Sighting(parent).parent)
    }
    for pid in candidates {
      let seen = Sighting(pid)
      if seen.number(at: depth) == number { return seen }
    }
    throw Failure(
      "\(construction.name(birth.parent)) has made PID \(number) of its namespace, which /proc does not show",
      advice: "Is /proc mounted for this PID namespace, and without hidepid?")
  }

  /// Has the threads' numbers, and those that images use, known as this process sees them.
  func nameForTracer() throws(Failure) {
    let rootLevel = (plan.tree.tasks.first?.pids.count ?? 1) - 1
    for (i, task) in plan.tree.tasks.enumerated() {
      let pid = plan.tasks[i].tracerPID
      if plan.levels.namesToolLevel {
        construction.threadTIDs.append(task.threads.map { $0[plan.levels.tool].rawValue })
      } else {
        let seen = task.threads.isEmpty ? [] : Sighting.threads(of: pid).map { Sighting($0) }
        construction.threadTIDs.append(
          task.threads.map { thread in seen.first { $0.numbers.last == thread.last?.rawValue }?.pid ?? 0 })
      }
      guard plan.levels.tool != rootLevel else { continue }
      construction.restore.tracerNumbers[Int32(plan.tasks[i].pid)] = pid
      for (thread, tid) in zip(task.threads, construction.threadTIDs[construction.threadTIDs.count - 1]) {
        construction.restore.tracerNumbers[thread[rootLevel].rawValue] = tid
      }
    }
  }
}
