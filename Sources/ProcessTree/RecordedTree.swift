/// A process (thread group) as a checkpoint records it.
public struct RecordedTask: Hashable, Sendable {
  /// What the task was doing when it was recorded.
  public enum State: Hashable, Sendable {
    case alive
    /// Stopped by job control with this signal. The schedule makes it like a living task; the executor
    /// stops it when the tree is released.
    case stopped(SignalNumber)
    /// Has exited and was not waited for yet.
    case zombie(WaitStatus)
  }

  /// The kernel objects that a task may share with others without being their thread.
  /// Nil means shared with nobody.
  public struct Shares: Hashable, Sendable {
    /// The descriptor table (`CLONE_FILES`).
    public var files: ShareGroupID?
    /// Root, working directory and umask (`CLONE_FS`).
    public var fs: ShareGroupID?
    /// The table of signal handlers (`CLONE_SIGHAND`); equal ones imply an equal `mm`.
    public var sighand: ShareGroupID?
    /// The address space (`CLONE_VM`).
    public var mm: ShareGroupID?

    public init(
      files: ShareGroupID? = nil, fs: ShareGroupID? = nil, sighand: ShareGroupID? = nil,
      mm: ShareGroupID? = nil
    ) {
      (self.files, self.fs, self.sighand, self.mm) = (files, fs, sighand, mm)
    }
  }

  /// The task's place in its tree.
  public var id: TaskID
  /// The task's PIDs, one per known level, outermost first (`NSpid:`). The last one is the PID that the
  /// task itself sees.
  public var pids: [PID]
  /// The task that `getppid(2)` names, nil for the root of the tree.
  public var parent: TaskID?
  /// The process group's ID at each level of `pids` (`NSpgid:`); 0 where it is led from outside that namespace.
  public var group: [PID]
  /// The session's ID at each level of `pids` (`NSsid:`); 0 where it is led from outside that namespace.
  public var session: [PID]
  /// The TIDs of every thread but the leader, each one per level, outermost first.
  public var threads: [[PID]]
  public var state: State
  /// The signal that the parent gets when the task ends (the low byte of `clone(2)`'s flags).
  public var exitSignal: SignalNumber
  /// The PID namespace that the task lives in (`/proc/PID/ns/pid`).
  public var pidNamespace: PIDNamespaceID
  /// The PID namespace that its children are born in, where that is another one
  /// (`/proc/PID/ns/pid_for_children`).
  public var pidNamespaceForChildren: PIDNamespaceID?
  /// Whether orphans below the task become its children (`PR_SET_CHILD_SUBREAPER`).
  public var isChildSubreaper: Bool
  public var shares: Shares

  public init(
    id: TaskID, pids: [PID], parent: TaskID?, group: [PID], session: [PID], threads: [[PID]] = [],
    state: State = .alive, exitSignal: SignalNumber = .child, pidNamespace: PIDNamespaceID,
    pidNamespaceForChildren: PIDNamespaceID? = nil, isChildSubreaper: Bool = false,
    shares: Shares = Shares()
  ) {
    self.id = id
    self.pids = pids
    self.parent = parent
    self.group = group
    self.session = session
    self.threads = threads
    self.state = state
    self.exitSignal = exitSignal
    self.pidNamespace = pidNamespace
    self.pidNamespaceForChildren = pidNamespaceForChildren
    self.isChildSubreaper = isChildSubreaper
    self.shares = shares
  }

  /// Whether the task has exited.
  public var isZombie: Bool {
    if case .zombie = state { return true }
    return false
  }

  /// Most tasks are in the group and the session of the one before: its lists are held in memory once.
  public mutating func hold(listsOf other: RecordedTask) {
    if group == other.group { group = other.group }
    if session == other.session { session = other.session }
  }
}

/// A PID namespace that a tree's tasks live in or put their children in.
public struct RecordedNamespace: Hashable, Sendable {
  public var id: PIDNamespaceID
  /// The namespace it is nested in, nil for the outermost known one.
  public var parent: PIDNamespaceID?
  /// How deep it lies; 0 is the outermost known one.
  public var level: Int
  /// The user namespace whose capabilities decide who may choose PIDs in it, where it is known.
  public var userNamespace: UserNamespaceID?
  /// Whether its init was there and has gone. Tasks may still have it as their namespace for children, and
  /// then cannot fork.
  public var isDead: Bool

  public init(
    id: PIDNamespaceID, parent: PIDNamespaceID?, level: Int, userNamespace: UserNamespaceID? = nil,
    isDead: Bool = false
  ) {
    (self.id, self.parent, self.level, self.userNamespace) = (id, parent, level, userNamespace)
    self.isDead = isDead
  }
}

/// A process tree as a checkpoint records it.
///
/// A namespace in which no task lives lies around the root's one, or is dead, or was made by `unshare(2)` and
/// still waits for its first task.
public struct RecordedTree: Hashable, Sendable {
  /// Every process; `tasks[i].id.index == i`, and a parent may come after its child.
  public var tasks: [RecordedTask]
  public var namespaces: [RecordedNamespace]

  public init(tasks: [RecordedTask], namespaces: [RecordedNamespace]) {
    (self.tasks, self.namespaces) = (tasks, namespaces)
  }

  public subscript(id: TaskID) -> RecordedTask { tasks[id.index] }
}

extension RecordedTask: CustomStringConvertible {
  /// One line: the PIDs and whatever is out of the ordinary.
  public var description: String {
    func list(_ pids: [PID]) -> String { pids.map(\.description).joined(separator: "/") }
    var line = "task \(list(pids))"
    if let parent { line += " parent #\(parent.index)" }
    line += " session \(list(session)) group \(list(group)) in \(pidNamespace)"
    if let pidNamespaceForChildren { line += " children in \(pidNamespaceForChildren)" }
    if !threads.isEmpty { line += " threads \(threads.map(list).joined(separator: ","))" }
    if isChildSubreaper { line += " subreaper" }
    if exitSignal != .child { line += " exit \(exitSignal)" }
    for (name, id) in [
      ("files", shares.files), ("fs", shares.fs), ("sighand", shares.sighand), ("mm", shares.mm),
    ] {
      if let id { line += " \(name) \(id.rawValue)" }
    }
    switch state {
    case .alive: break
    case .stopped(let signal): line += " stopped by \(signal)"
    case .zombie(let status): line += " zombie with \(status)"
    }
    return line
  }
}

extension RecordedTree: CustomStringConvertible {
  /// A line per task, in order.
  public var description: String {
    tasks.map { "#\($0.id.index) \($0)" }.joined(separator: "\n")
  }
}
