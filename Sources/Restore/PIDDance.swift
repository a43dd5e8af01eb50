import CLinux
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

/// How tasks come by their PIDs without `set_tid`: the kernel gives out the number after the one that was written to
/// `/proc/sys/kernel/ns_last_pid`, if nobody forks in between (Documentation/admin-guide/sysctl/kernel.rst).
///
/// The file acts on the PID namespace of who writes, so each level is written by somebody who lives there: the tool for its own,
/// the maker of the child for its own, the namespaces' inits for those between and below. What came of it is looked at.
final class PIDDance {
  private let file: Int32
  private let retries: Int
  /// The numbers that could not be had so far, and how often.
  private var misses = 0

  /// Locks the file against other restores, until the value is given up.
  init(_ construction: Construction) throws(Failure) {
    retries = construction.restore.options.pidRetries
    file = construction.restore.service.lastPID
    try about("locking /proc/sys/kernel/ns_last_pid") { () throws(Errno) in
      _ = try syscall(__NR_flock, Int(file), 2 /* LOCK_EX */)
    }
  }

  /// Ends the lock.
  func end() { _ = cl_syscall(Int(__NR_flock), Int(file), 8 /* LOCK_UN */, 0, 0, 0, 0) }

  /// The number that the maker of a child writes for its own level, just before.
  func append(_ wanted: WantedPIDs, at level: Int, _ program: inout SyscallProgram) {
    guard let pid = wanted.pid(at: level) else { return }
    let text = Array("\(pid - 1)".utf8)
    program.call(
      __NR_pwrite64, Argument(file), Argument(program.place(text)), Argument(text.count), 0,
      for: "writing ns_last_pid for PID", UInt64(pid))
  }

  /// Writes the other levels, of a child that `parent` is about to make.
  func prepare(_ wanted: WantedPIDs, by parent: ForkSchedule.Actor, in forking: Forking) throws(Failure) {
    let own = parent == .tool ? nil : forking.level(of: parent)
    for level in max(forking.plan.levels.tool, 0)...max(wanted.innermost, 0) where level != own {
      guard let pid = wanted.pid(at: level) else { continue }
      if level == forking.plan.levels.tool {
        try write(pid)
        continue
      }
      let namespace = forking.helpers.namespace(at: level, around: wanted.namespace)
      guard let writer = namespace.flatMap({ forking.plan.schedule.namespaceInits[$0] }),
        let slot = forking.construction.slot(of: writer)
      else { throw Failure("nobody lives at level \(level) to write its ns_last_pid for PID \(pid)") }
      var program = SyscallProgram(for: slot)
      append(wanted, at: level, &program)
      try forking.construction.run([(forking.construction.name(writer), ProgramSequence(slot, program))])
    }
  }

  private func write(_ pid: Int32) throws(Failure) {
    let text = Array("\(pid - 1)".utf8)
    let written = text.withUnsafeBytes {
      cl_syscall(Int(__NR_pwrite64), Int(file), Int(bitPattern: $0.baseAddress), $0.count, 0, 0, 0)
    }
    guard written < 0 else { return }
    throw Failure(
      "writing \(pid - 1) to /proc/sys/kernel/ns_last_pid", Errno(rawValue: Int32(-written)),
      advice: "This needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN, and a /proc/sys that is not read-only.")
  }

  /// Whether a newborn has the numbers that it should; throws when they could not be had too often.
  func isRight(_ seen: Sighting, _ wanted: WantedPIDs, in forking: Forking) throws(Failure) -> Bool {
    let tool = forking.plan.levels.tool
    let levels = max(tool, 0)...max(wanted.innermost, 0)
    guard let wrong = levels.first(where: { wanted.pid(at: $0) ?? seen.number(at: $0 - tool) != seen.number(at: $0 - tool) })
    else {
      misses = 0
      return true
    }
    misses += 1
    forking.construction.pidRetries += 1
    if misses <= retries { return false }
    let pid = wanted.pid(at: wrong) ?? 0
    let holder =
      forking.holder(of: pid, at: wrong, in: wanted.namespace).map { "the process \($0.pid) (\($0.comm)) has it" }
      ?? (wrong == tool ? Holder.member(of: pid) : nil).map { member, role in
        "the \(role) of the \(member.kind) \(member.comm) (\(member.pid)) has it, whose leader has gone"
      }
    throw Failure(
      "PID \(pid) at level \(wrong) was not to be had in \(misses) tries: \(holder ?? "others forked in between") (ns_last_pid)",
      advice: holder == nil
        ? "Give --pid-retries a larger number, or --pid-method clone3." : "End that process first, or give --new-pid-namespace.",
      errno: .fileExists)
  }
}

/// The numbers that a child is to have.
struct WantedPIDs {
  /// Innermost level first, as for clone3(2); the kernel chooses those of the levels that it does not reach.
  let setTID: [PID]
  /// The namespace that it is to live in, and its level.
  let namespace: PIDNamespaceID
  let innermost: Int
  /// Whether it is the first in the namespace, where it is PID 1 by itself.
  let isInit: Bool

  /// The number that is to be asked for at a level; `nil` where none is.
  func pid(at level: Int) -> Int32? {
    let place = innermost - level
    guard setTID.indices.contains(place), !(isInit && place == 0) else { return nil }
    return setTID[place].rawValue
  }

  /// "31496/42/1"
  var description: String { setTID.reversed().map(\.description).joined(separator: "/") }
}
