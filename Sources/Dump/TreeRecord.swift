import Checkpoint
import Linux
import ProcessTree
import Resources

/// The tree under dump as the fork schedule will find it in the images, a task at a time.
struct TreeRecord {
  private let dumped: [DumpedTask]
  private let namespaces: PIDNamespaces
  private let places: [Int32: TaskID]
  private let users: Users

  init(_ dumped: [DumpedTask], _ namespaces: PIDNamespaces) {
    self.dumped = dumped
    self.namespaces = namespaces
    places = Dictionary(zip(dumped.map(\.pid), dumped.indices.lazy.map { TaskID($0) })) { _, last in last }
    users = Users(dumped)
  }

  /// Throws if the tree could never be made again: better said now than after its end.
  func check(_ options: DumpOptions) throws(Failure) {
    if isPlain { return }
    let tree = self.tree
    do throws(ScheduleError) {
      // Sessions from outside are objected to before (Survey), or the user has asked for them.
      _ = try ForkSchedule.compute(tree, options: ForkSchedule.Options(shellJob: options.shellJob))
    } catch {
      throw Failure(
        "cannot be dumped: \(error.description(in: tree)) (fork schedule)", advice: "Nothing was changed; the tree runs on.")
    }
  }

  /// Whether there is a schedule for certain: see ``RecordedTask/isPlain(under:)``. All tasks at once would take much memory.
  private var isPlain: Bool {
    guard namespaces.recorded.count == 1 else { return false }
    var parent: RecordedTask?
    return dumped.indices.allSatisfy { i in
      let task = self[i]
      if let id = task.parent, parent?.id != id { parent = self[id.index] }
      return task.isPlain(under: task.parent == nil ? nil : parent)
    }
  }

  private var tree: RecordedTree {
    var tasks: [RecordedTask] = []
    tasks.reserveCapacity(dumped.count)
    for i in dumped.indices {
      var recorded = self[i]
      if let last = tasks.last { recorded.hold(listsOf: last) }
      tasks.append(recorded)
    }
    return RecordedTree(tasks: tasks, namespaces: namespaces.recorded)
  }

  private subscript(i: Int) -> RecordedTask {
    let task = dumped[i]
    func pids(_ numbers: [Int32]) -> [PID] { numbers.map { PID($0) } }
    return RecordedTask(
      id: TaskID(i), pids: pids(task.status.nsTgid), parent: i == 0 ? nil : places[task.parent],
      group: pids(task.status.nsPgid), session: pids(task.status.nsSid),
      threads: task.threads.dropFirst().map { pids($0.status.nsPid) },
      state: task.isZombie ? .zombie(WaitStatus(rawValue: task.stat.exitCode)) : .alive,
      exitSignal: SignalNumber(task.stat.exitSignal), pidNamespace: PIDNamespaceID(task.pidNamespace),
      pidNamespaceForChildren: task.pidNamespaceForChildren.map { PIDNamespaceID($0) },
      isChildSubreaper: task.isChildSubreaper, shares: users.shares(of: task))
  }

  /// The objects that several tasks have.
  private struct Users {
    private let files: Set<UInt32>
    private let fs: Set<UInt32>
    private let sighand: Set<UInt32>

    init(_ tasks: [DumpedTask]) {
      let live = tasks.filter { !$0.isZombie }
      files = Self.repeated(live.map(\.filesID))
      fs = Self.repeated(live.map(\.fsID))
      sighand = Self.repeated(live.map(\.sighandID))
    }

    private static func repeated(_ ids: [UInt32]) -> Set<UInt32> {
      let sorted = ids.sorted()
      return Set(zip(sorted, sorted.dropFirst()).lazy.filter { $0 == $1 }.map(\.0))
    }

    func shares(of task: DumpedTask) -> RecordedTask.Shares {
      func shared(_ id: UInt32, _ several: Set<UInt32>) -> ShareGroupID? {
        !task.isZombie && several.contains(id) ? ShareGroupID(id) : nil
      }
      return RecordedTask.Shares(
        files: shared(task.filesID, files), fs: shared(task.fsID, fs), sighand: shared(task.sighandID, sighand))
    }
  }
}
