import Checkpoint
import Glibc
import Linux
import ProcessTree
import Resources

extension RecordedTree {
  /// The tree as the fork schedule wants it, from pstree.img, the core images and pidns-N.img.
  init(_ checkpoint: LoadedCheckpoint) throws(Failure) {
    var places: [UInt32: TaskID] = [:]
    for (i, entry) in checkpoint.tree.enumerated() {
      guard entry.pid > 0, entry.pid <= 1 << 22, places.updateValue(TaskID(i), forKey: entry.pid) == nil else {
        throw Failure("pstree.img: entry \(i): PID \(entry.pid) is out of range, or there twice")
      }
    }
    let own = checkpoint.dumpersPIDNamespace
    let hasLevels = checkpoint.tree.contains { !$0.nsPids.isEmpty }
    var named: Set<UInt32> = []
    let users = Users(checkpoint.reading.tasks)
    var tasks: [RecordedTask] = []
    tasks.reserveCapacity(checkpoint.tree.count)
    for (i, entry) in checkpoint.tree.enumerated() {
      let task = checkpoint.reading.tasks[i]
      let parent = places[entry.ppid]
      guard i == 0 ? entry.ppid == 0 || parent == nil : parent != nil else {
        throw Failure("pstree.img: entry \(i): the parent \(entry.ppid) of task \(entry.pid) is not in the tree")
      }
      var numbers = try Numbers(entry, i, hasLevels: hasLevels, own: own)
      // CRIU writes a list of the length of one for a zombie, of which it sets nothing.
      if task.isZombie { numbers.threads = [] }
      named.insert(numbers.namespace)
      if let inner = numbers.namespaceForChildren { named.insert(inner) }
      var recorded = RecordedTask(
        id: TaskID(i), pids: numbers.pids, parent: parent, group: numbers.group, session: numbers.session,
        threads: numbers.threads, state: task.state,
        exitSignal: SignalNumber(
          Int32(bitPattern: entry.exitSignal ?? task.core.tc?.exitSignal ?? UInt32(SIGCHLD))),
        pidNamespace: PIDNamespaceID(numbers.namespace),
        pidNamespaceForChildren: numbers.namespaceForChildren.map { PIDNamespaceID($0) },
        isChildSubreaper: task.core.tc?.childSubreaper ?? false, shares: users.shares(of: task))
      if let last = tasks.last { recorded.hold(listsOf: last) }
      tasks.append(recorded)
    }
    let namespaces =
      hasLevels
      ? try PIDNamespaces.read(named, own: own, checkpoint.restore)
      : [RecordedNamespace(id: PIDNamespaceID(own), parent: nil, level: 0)]
    self.init(tasks: tasks, namespaces: namespaces)
  }

  /// The numbers of an entry of pstree.img: at one level, or at as many as its extension fields have.
  private struct Numbers {
    var pids: [PID]
    var threads: [[PID]]
    var group: [PID]
    var session: [PID]
    var namespace: UInt32
    var namespaceForChildren: UInt32?

    init(_ entry: PstreeEntry, _ place: Int, hasLevels: Bool, own: UInt32) throws(Failure) {
      func pid(_ number: UInt32) -> PID { PID(Int32(bitPattern: number)) }
      guard hasLevels else {
        pids = [pid(entry.pid)]
        threads = entry.threads.filter { $0 != entry.pid }.map { [pid($0)] }
        (group, session, namespace) = ([pid(entry.pgid)], [pid(entry.sid)], own)
        return
      }
      guard let leader = entry.nsPids.first, entry.nsPids.count == entry.threads.count, entry.threads.first == entry.pid,
        zip(entry.threads, entry.nsPids).allSatisfy({ $1.pid.contains($0) })
      else {
        throw Failure(
          "pstree.img: entry \(place): ns_pids has \(entry.nsPids.count) threads and not the PIDs of the \(entry.threads.count) in threads")
      }
      pids = leader.pid.map(pid)
      threads = entry.nsPids.dropFirst().map { $0.pid.map(pid) }
      (group, session) = (entry.nsPgid.map(pid), entry.nsSid.map(pid))
      guard let lives = entry.pidNsId else {
        throw Failure("pstree.img: entry \(place): pid_ns_id is missing, although the tree has several levels of PIDs")
      }
      (namespace, namespaceForChildren) = (lives, leader.pidForChildrenNsId)
    }
  }

  /// How many tasks use each of the objects that can be shared.
  private struct Users {
    var files: [UInt32: Int] = [:]
    var fs: [UInt32: Int] = [:]
    var sighand: [UInt32: Int] = [:]
    var vm: [UInt32: Int] = [:]

    init(_ tasks: [RestoredTask]) {
      for task in tasks where !task.isZombie {
        files[task.ids.filesId, default: 0] += 1
        fs[task.ids.fsId, default: 0] += 1
        sighand[task.ids.sighandId, default: 0] += 1
        vm[task.ids.vmId, default: 0] += 1
      }
    }

    func shares(of task: RestoredTask) -> RecordedTask.Shares {
      func shared(_ id: UInt32, _ users: [UInt32: Int]) -> ShareGroupID? {
        !task.isZombie && users[id] ?? 0 > 1 ? ShareGroupID(id) : nil
      }
      return RecordedTask.Shares(
        files: shared(task.ids.filesId, files), fs: shared(task.ids.fsId, fs),
        sighand: shared(task.ids.sighandId, sighand), mm: shared(task.ids.vmId, vm))
    }
  }
}

extension RestoredTask {
  fileprivate var state: RecordedTask.State {
    if isZombie { return .zombie(WaitStatus(rawValue: Int32(bitPattern: core.tc?.exitCode ?? 0))) }
    if isStopped { return .stopped(SignalNumber(Int32(core.tc?.stopSigno ?? UInt32(SIGSTOP)))) }
    return .alive
  }
}
