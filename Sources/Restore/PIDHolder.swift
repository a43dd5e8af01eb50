import Glibc
import Linux
import ProcessTree
import SystemPackage

/// The process that has a PID.
struct Holder {
  let pid: Int32
  let comm: String
  let isZombie: Bool
  let parent: Int32
  fileprivate let group: Int32
  fileprivate let session: Int32

  /// `nil` if nobody has it, in this process's namespace.
  init?(of pid: Int32) {
    guard kill(pid, 0) == 0 || errno != ESRCH else { return nil }
    self.init(looking: pid)
  }

  private init?(looking pid: Int32) {
    let buffer = ReadBuffer()
    guard let directory = try? ProcDirectory(pid: pid), let text = try? directory.read("stat", buffer),
      let stat = ProcStat(text)
    else { return nil }
    self.pid = pid
    (comm, isZombie, parent) = (stat.comm.text, stat.state == UInt8(ascii: "Z"), stat.ppid)
    (group, session) = (stat.pgrp, stat.session)
  }

  /// "process" or "zombie".
  var kind: String { isZombie ? "zombie" : "process" }

  /// A process of the group or session with this ID, a living one if there is one, which keeps the number when its leader has gone
  /// (kernel/pid.c: free_pid is called when nobody is attached to it in any role); and "process group" or "session".
  static func member(of number: Int32) -> (holder: Holder, role: String)? {
    let buffer = ReadBuffer()
    guard let directory = try? Descriptor.open("/proc", O_RDONLY | O_DIRECTORY),
      let all = try? buffer.numbers(in: directory.rawValue)
    else { return nil }
    var zombie: (holder: Holder, role: String)?
    for pid in all {
      guard let holder = Holder(looking: pid), holder.group == number || holder.session == number else { continue }
      let member = (holder, holder.group == number ? "process group" : "session")
      if !holder.isZombie { return member }
      zombie = zombie ?? member
    }
    return zombie
  }
}

extension Holder {
  /// The numbers of all process groups and sessions in this process's namespace.
  static func groupsAndSessions() -> Set<Int32> {
    let buffer = ReadBuffer()
    guard let directory = try? Descriptor.open("/proc", O_RDONLY | O_DIRECTORY),
      let all = try? buffer.numbers(in: directory.rawValue)
    else { return [] }
    return Set(all.compactMap { Holder(looking: $0) }.flatMap { [$0.group, $0.session] })
  }
}

extension Forking {
  func name(of child: Child) -> String {
    switch child {
    case .process(let actor): construction.name(actor)
    case .thread(let id, let index):
      "\(plan.tasks[id.index].description), thread \(plan.tree[id].threads[index].map(\.description).joined(separator: "/"))"
    }
  }

  /// Who has a PID in the namespaces of a recorded level; only those in and below this process's can be looked at.
  func holder(of pid: Int32, at level: Int, in namespace: PIDNamespaceID) -> Holder? {
    level == plan.levels.tool ? Holder(of: pid) : nil
  }

  /// Says who has a PID that is taken, and at which level.
  func explain(_ failure: Failure, _ wanted: WantedPIDs?, name: String) -> Failure {
    switch failure.errno {
    case .fileExists?: return wanted.map { taken(name, $0) } ?? failure
    case .notPermitted?:
      return Failure(
        failure.cause, advice: "Choosing PIDs needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN, or --new-pid-namespace.",
        errno: .notPermitted)
    default: return failure
    }
  }

  private func unreaped(_ holder: Holder) -> String {
    "It has ended, but its parent \(holder.parent) has not waited for it; try again."
  }

  private func taken(_ name: String, _ wanted: WantedPIDs) -> Failure {
    let advice = "End that process first, or restore with --new-pid-namespace, where no PID can be taken."
    let level = plan.levels.tool
    if let pid = wanted.pid(at: level), let holder = holder(of: pid, at: level, in: wanted.namespace) {
      let levels = wanted.setTID.count > 1 ? " (at level \(level) of \(wanted.description))" : ""
      return Failure(
        "\(name): its PID \(pid)\(levels) is taken by the \(holder.kind) \(holder.comm): clone3: \(Errno.fileExists.nameAndText)",
        advice: holder.isZombie ? unreaped(holder) : advice,
        errno: .fileExists)
    }
    if let pid = wanted.pid(at: level), let (member, role) = Holder.member(of: pid) {
      return Failure(
        "\(name): its PID \(pid) is taken by the \(role) of the \(member.kind) \(member.comm) (\(member.pid)), whose leader has gone: clone3: \(Errno.fileExists.nameAndText)",
        advice: member.isZombie ? unreaped(member) : advice, errno: .fileExists)
    }
    let around =
      plan.levels.namedAround > 0 ? " in a PID namespace around this one, which cannot be seen from here" : " that has gone since"
    return Failure(
      "\(name): one of its PIDs \(wanted.description) is taken by a process\(around): clone3: \(Errno.fileExists.nameAndText)",
      advice: advice, errno: .fileExists)
  }
}
