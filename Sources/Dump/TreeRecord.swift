import Checkpoint
import Linux
import ProcessTree
import Resources

extension RecordedTree {
  /// The tree under dump as the fork schedule will find it in the images.
  init(_ dumped: [DumpedTask], _ namespaces: PIDNamespaces) {
    var places: [Int32: TaskID] = [:]
    for (i, task) in dumped.enumerated() { places[task.pid] = TaskID(i) }
    let users = Users(dumped)
    func pids(_ numbers: [Int32]) -> [PID] { numbers.map { PID($0) } }
    var tasks: [RecordedTask] = []
    tasks.reserveCapacity(dumped.count)
    for (i, task) in dumped.enumerated() {
      var recorded = RecordedTask(
        id: TaskID(i), pids: pids(task.status.nsTgid), parent: i == 0 ? nil : places[task.parent],
        group: pids(task.status.nsPgid), session: pids(task.status.nsSid),
        threads: task.threads.dropFirst().map { pids($0.status.nsPid) },
        state: task.isZombie ? .zombie(WaitStatus(rawValue: task.stat.exitCode)) : .alive,
        exitSignal: SignalNumber(task.stat.exitSignal), pidNamespace: PIDNamespaceID(task.pidNamespace),
        pidNamespaceForChildren: task.pidNamespaceForChildren.map { PIDNamespaceID($0) },
        isChildSubreaper: task.isChildSubreaper, shares: users.shares(of: task))
      if let last = tasks.last { recorded.hold(listsOf: last) }
      tasks.append(recorded)
    }
    self.init(tasks: tasks, namespaces: namespaces.recorded)
  }

  /// Throws if the tree could never be made again: better said now than after its end.
  func check(_ options: DumpOptions) throws(Failure) {
    if isPlain { return }
    do throws(ScheduleError) {
      // Sessions from outside are objected to before (Survey), or the user has asked for them.
      _ = try ForkSchedule.compute(self, options: ForkSchedule.Options(shellJob: options.shellJob))
    } catch {
      throw Failure(
        "cannot be dumped: \(error.description(in: self)) (fork schedule)", advice: "Nothing was changed; the tree runs on.")
    }
  }

  /// How many tasks use each of the objects that can be shared.
  private struct Users {
    var files: [UInt32: Int] = [:]
    var fs: [UInt32: Int] = [:]
    var sighand: [UInt32: Int] = [:]

    init(_ tasks: [DumpedTask]) {
      for task in tasks where !task.isZombie {
        files[task.ids.filesId, default: 0] += 1
        fs[task.ids.fsId, default: 0] += 1
        sighand[task.ids.sighandId, default: 0] += 1
      }
    }

    func shares(of task: DumpedTask) -> RecordedTask.Shares {
      func shared(_ id: UInt32, _ users: [UInt32: Int]) -> ShareGroupID? {
        !task.isZombie && users[id] ?? 0 > 1 ? ShareGroupID(id) : nil
      }
      return RecordedTask.Shares(
        files: shared(task.ids.filesId, files), fs: shared(task.ids.fsId, fs), sighand: shared(task.ids.sighandId, sighand))
    }
  }
}
