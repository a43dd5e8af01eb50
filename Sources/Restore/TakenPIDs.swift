import Glibc
import Linux
import ProcessTree
import SystemPackage

extension Plan {
  /// Looks at who has the PIDs that the tree is to have in this process's namespace, before anything is made.
  ///
  /// - A number may be higher than this namespace lets them be.
  /// - A tree that was just dumped may still lie there as zombies that nobody has waited for, PID 1 being slow at it: their PIDs become
  ///   free in a moment, for which it is worth to wait a little.
  /// - This process keeps its PID until it has ended and its parent has waited for it, and so do those that wait for it. No number of
  ///   tries would help. (Its threads do not matter: there are none while a task is being born.)
  /// - Whoever else has one may be gone when its turn comes (``Forking``).
  func checkPIDs() throws(Failure) {
    guard levels.namesToolLevel else { return }
    let end = nanoseconds() + 2_000_000_000
    for (task, recorded) in zip(tasks, tree.tasks) {
      try check(recorded.pids[levels.tool].rawValue, of: task.description, until: end)
      for thread in recorded.threads where thread.indices.contains(levels.tool) {
        try check(thread[levels.tool].rawValue, of: task.description + ", a thread", until: end)
      }
    }
    let depths = Dictionary(tree.namespaces.map { ($0.id, $0.level) }, uniquingKeysWith: { first, _ in first })
    for step in schedule.steps {
      guard case .clone(let clone) = step.action, case .helper(let id) = clone.child,
        let depth = depths[schedule.helpers[id.index].pidNamespace]
      else { continue }
      // Innermost first.
      let place = depth - levels.tool
      guard clone.setTID.indices.contains(place) else { continue }
      try check(clone.setTID[place].rawValue, of: "a session or process group of the tree", until: end)
    }
  }

  private func check(_ pid: Int32, of owner: @autoclosure () -> String, until end: UInt64) throws(Failure) {
    if pid >= HelperNumbers.pidMax {
      // Namespaces may have other limits than the one around them, since Linux 6.14.
      throw Failure(
        "\(owner()): PID \(pid) is above what this PID namespace has: /proc/sys/kernel/pid_max is \(HelperNumbers.pidMax)",
        advice: "Raise that, or restore with --new-pid-namespace.", errno: .invalidArgument)
    }
    var holder = Holder(of: pid)
    while holder?.isZombie ?? false, nanoseconds() < end {
      usleep(2_000)
      holder = Holder(of: pid)
    }
    let group = getpgrp()
    guard holder != nil || pid == group || pid == getsid(0) else { return }
    let taken: String
    let advice: String
    if pid == getpid() {
      taken = "swift-restore's own"
      advice = "Start it again: it gets another PID, above the tree's if such a number is in /proc/sys/kernel/ns_last_pid"
    } else if let holder {
      guard Self.isAncestor(pid) else { return }
      taken = "that of the process \(holder.comm), which waits for swift-restore"
      advice = "Have another process start swift-restore"
    } else {
      taken = "that of the \(pid == group ? "process group" : "session") that swift-restore is in"
      advice = "Start it with setsid"
    }
    throw Failure(
      "\(owner()): PID \(pid) is \(taken)", advice: advice + ", or restore with --new-pid-namespace.", errno: .fileExists)
  }

  private static func isAncestor(_ pid: Int32) -> Bool {
    var ancestor = getppid()
    while ancestor > 0 {
      if ancestor == pid { return true }
      ancestor = Holder(of: ancestor)?.parent ?? 0
    }
    return false
  }
}
