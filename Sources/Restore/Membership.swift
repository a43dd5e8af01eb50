import CLinux
import Checkpoint
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

/// Which namespaces each stub lives in: those of its parent, until it enters its own, which it does before it has children or
/// threads (man 2 setns).
struct Membership {
  let construction: Construction
  /// The numbers of an actor's namespaces, in the order of `namespaceKinds`; who is not in here lives where the tool does.
  private var numbers: [ForkSchedule.Actor: [UInt32]] = [:]
  private var arrivals: [TaskID] = []
  private let own = [UInt32](repeating: 0, count: namespaceKinds.count)

  init(_ construction: Construction) { self.construction = construction }

  private var namespaces: RestoredNamespaces { construction.restore.namespaces }

  mutating func isBorn(_ child: ForkSchedule.Actor, from parent: ForkSchedule.Actor) {
    if namespaces.areNone { return }
    numbers[child] = numbers[parent]
    if case .task(let id) = child, !construction.plan.tasks[id.index].isZombie { arrivals.append(id) }
  }

  /// Has all who were born since the last time enter their namespaces.
  mutating func settle() throws(Failure) {
    var work: [(name: String, sequence: ProgramSequence)] = []
    for id in arrivals {
      let task = construction.plan.tasks[id.index]
      let now = numbers[.task(id)] ?? own
      let wanted = namespaceKinds.indices.map { namespaces.id($0, of: task) }
      if now == wanted { continue }
      var sequence = ProgramSequence(construction.area.slots[construction.plan.slot(of: task)])
      for (i, kind) in namespaceKinds.enumerated() where now[i] != wanted[i] {
        let fd = sequence.fetch(namespaces.descriptor(i, wanted[i]), construction.restore)
        sequence.current.call(__NR_setns, fd, Argument(kind.flag), for: "entering its namespaces: setns")
        sequence.current.call(__NR_close, fd, for: "entering its namespaces")
      }
      work.append((task.description, sequence))
      numbers[.task(id)] = wanted
    }
    if !work.isEmpty { try construction.run(work) }
    arrivals = []
  }

  /// A proc shows the PID namespace of who mounts it, so that a task of that namespace has to, once all exist.
  ///
  /// Of the namespaces around the tree, which no task lives in, one stands for all here: that which the root is born in, or, if it is the
  /// PID 1 of its own, the one around that.
  func mountProc() throws(Failure) {
    let restore = construction.restore
    let plan = construction.plan
    for (namespace, entry) in restore.mounts.missingProc() {
      if let task = plan.tasks.first(where: { !$0.isZombie && $0.ids.pidNsId == namespace }) {
        let slot = construction.area.slots[plan.slot(of: task)]
        try have(slot, of: task.tracerPID, task.description, mount: entry)
      } else if plan.tree.tasks.first?.pids.last != .one, let root = plan.tasks.first {
        try have(construction.area.slots[plan.slot(of: root)], of: root.tracerPID, root.description, mount: entry)
      } else if let helper = plan.schedule.helpers.first(where: { $0.purpose == .namespaceInit }),
        let slot = construction.slot(of: .helper(helper.id)), let pid = construction.helperPIDs[helper.id]
      {
        try have(slot, of: pid, "the namespace's init", mount: entry)
      } else {
        try restore.mounts.takeProc(try OwnFileSystem.proc.make(entry, restore), for: entry, restore)
      }
    }
  }

  private func have(_ slot: Slot, of pid: Int32, _ name: String, mount entry: MntEntry) throws(Failure) {
    var sequence = ProgramSequence(slot)
    let mount = entry.mountProc(&sequence.current)
    try construction.run([(name, sequence)])
    let descriptor = try about("\(name): taking the proc that it mounted") { () throws(Errno) in
      let owner = try pidfdOpen(pid)
      return try pidfdGetfd(owner.rawValue, Int32(slot.result(mount)))
    }
    try construction.restore.mounts.takeProc(descriptor, for: entry, construction.restore)
  }
}
