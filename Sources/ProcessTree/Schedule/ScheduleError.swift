/// Why a recorded tree cannot be made again.
public enum ScheduleError: Error, Hashable, Sendable {
  // The images contradict themselves.
  case noRoot
  case severalRoots(TaskID, TaskID)
  case misnumbered(TaskID, place: Int)
  case unknownParent(TaskID)
  case parentCycle(TaskID)
  case pidOutOfRange(TaskID, PID)
  case pidTakenTwice(PID, PIDNamespaceID, TaskID, TaskID)
  case wrongLevelCount(TaskID, expected: Int)
  case badNamespace(PIDNamespaceID, String)
  case severalOutermostNamespaces
  case unknownNamespace(TaskID, PIDNamespaceID)
  case namespaceWithoutInit(PIDNamespaceID, task: TaskID)
  case tasksOutliveInit(TaskID)
  case initInsideItsNamespace(TaskID)
  case namespaceAboveParent(TaskID)
  case childrenNamespaceNotNested(TaskID)
  case emptyNamespaceShared(PIDNamespaceID)
  case visibleOnlyInside(TaskID, [PID])
  case inconsistentViews(PID, TaskID)
  case leaderLeftItsSession(TaskID)
  case sessionLeaderInOtherGroup(TaskID)
  case groupSpansSessions(PID, TaskID?, TaskID)
  case zombieHasChild(TaskID, child: TaskID)
  case zombieHasThreads(TaskID)
  case handlersSharedWithoutMemory(TaskID)
  // The options do not allow it.
  case sessionLedFromOutside(TaskID, PID)
  case groupLedFromOutside(TaskID, PID)
  case levelsMissing(TaskID, Int)
  // No history was found that ends in it.
  case sessionOutOfReach(TaskID, PID)
  case groupOutOfReach(TaskID, PID)
  case orphanWithExitSignal(TaskID, SignalNumber)
  case sharingOutOfReach(TaskID)
  case creatorsNeedEachOther(TaskID)
  case stepsWaitForEachOther(TaskID)
}

extension ScheduleError: CustomStringConvertible {
  /// What is wrong, in which task, and what the kernel's rule is. Tasks are numbered as in the image of the tree,
  /// from 0; `description(in:)` calls them by their PIDs.
  public var description: String { text { "task #\($0.index)" } }

  /// The same, with the tasks' PIDs.
  public func description(in tree: RecordedTree) -> String {
    text { id in
      guard tree.tasks.indices.contains(id.index) else { return "task #\(id.index)" }
      return "task " + tree[id].pids.map(\.description).joined(separator: "/")
    }
  }

  private func text(_ name: (TaskID) -> String) -> String {
    imageText(name) ?? optionText(name) ?? historyText(name)
  }

  /// What a user can do about it, where there is something.
  public var advice: String {
    switch self {
    case .sessionLedFromOutside, .groupLedFromOutside: "Give --shell-job, for the dump and for the restore."
    default: ""
    }
  }

  private func imageText(_ name: (TaskID) -> String) -> String? {
    switch self {
    case .noRoot: "no task is the root: each of them has a parent in the tree"
    case .severalRoots(let one, let other):
      "\(name(one)) and \(name(other)) both have no parent in the tree; it can have one root"
    case .misnumbered(let id, let place): "\(name(id)) is listed at place \(place)"
    case .unknownParent(let id): "\(name(id))'s parent is not in the tree"
    case .parentCycle(let id): "\(name(id)) is its own ancestor"
    case .pidOutOfRange(let id, let pid): "\(name(id)) has \(pid) among its PIDs; they begin at 1"
    case .pidTakenTwice(let pid, let namespace, let one, let other):
      "\(name(one)) and \(name(other)) both have PID \(pid) in \(namespace)"
    case .wrongLevelCount(let id, let expected):
      "\(name(id)) lives \(expected) levels deep, so every PID, session and group of it has \(expected) numbers"
    case .badNamespace(let id, let reason): "PID namespace \(id): \(reason)"
    case .severalOutermostNamespaces: "one PID namespace, and no more, has no parent"
    case .unknownNamespace(let id, let namespace): "\(name(id)) names \(namespace), which is not recorded"
    case .namespaceWithoutInit(let namespace, let id):
      "\(name(id)) lives in \(namespace), whose PID 1 is not in the tree; "
        + "checkpoint the tree from that process or above, or restore inside the namespace"
    case .tasksOutliveInit(let id):
      "\(name(id)) is PID 1 of its namespace and has exited, but other tasks are recorded there; "
        + "the kernel kills them first"
    case .initInsideItsNamespace(let id):
      "\(name(id)) is PID 1 of its namespace, and so is its parent's namespace; its creator lives outside"
    case .namespaceAboveParent(let id):
      "\(name(id)) lives in a PID namespace that is not its parent's or nested in it; children are born there or deeper"
    case .childrenNamespaceNotNested(let id):
      "\(name(id))'s namespace for children is not its own or nested in it; setns(2) goes inwards only"
    case .emptyNamespaceShared(let namespace):
      "\(namespace) has no tasks yet, so only the one task that made it can have it for its children"
    case .visibleOnlyInside(let id, let list):
      "\(name(id)) sees an ID as \(list.map(\.description).joined(separator: "/")); "
        + "what is visible in a namespace is visible around it"
    case .inconsistentViews(let pid, let id):
      "\(name(id)) sees the session or group \(pid) with other numbers than the rest of its members"
    case .leaderLeftItsSession(let id):
      "\(name(id)) is in another session than the one it leads; a session leader cannot leave it"
    case .sessionLeaderInOtherGroup(let id):
      "\(name(id)) leads a session and is in another group than its own; setpgid(2) refuses that"
    case .groupSpansSessions(let pid, let one, let other):
      "group \(pid) has \(name(other)) in it\(one.map { " and \(name($0))" } ?? ""), but a group is in one session only"
    case .zombieHasChild(let id, let child):
      "\(name(id)) has exited but is the parent of \(name(child)); the kernel gives a dead task's children away"
    case .zombieHasThreads(let id): "\(name(id)) has exited but has threads"
    case .handlersSharedWithoutMemory(let id):
      "\(name(id)) shares signal handlers with a task whose memory it does not share; CLONE_SIGHAND needs CLONE_VM"
    default: nil
    }
  }

  private func optionText(_ name: (TaskID) -> String) -> String? {
    switch self {
    case .sessionLedFromOutside(let id, let pid):
      "\(name(id))'s session\(Self.number(pid)) is led from outside the tree; "
        + "with --shell-job it becomes that of the restoring shell"
    case .groupLedFromOutside(let id, let pid):
      "\(name(id))'s process group\(Self.number(pid)) is led from outside the tree; "
        + "with --shell-job it becomes that of the restoring shell"
    case .levelsMissing(let id, let level):
      "PIDs are to be named from level \(level) on, but \(name(id)), the root, lives further out"
    default: nil
    }
  }

  private func historyText(_ name: (TaskID) -> String) -> String {
    switch self {
    case .sessionOutOfReach(let id, let pid):
      "\(name(id)) cannot get a member of session\(Self.number(pid)) where it is recorded: a session is inherited "
        + "at birth, and no order of forks, setsid and exits was found that leads there"
    case .groupOutOfReach(let id, let pid):
      "\(name(id)) cannot get into process group\(Self.number(pid)): it is not visible in its PID namespace, "
        + "and nobody was found who can put it there or hand it down"
    case .orphanWithExitSignal(let id, let signal):
      "\(name(id)) has \(signal) as its exit signal, but it must have become an orphan, and those get SIGCHLD"
    case .sharingOutOfReach(let id):
      "\(name(id)) shares an object with tasks that nobody can have created together with it"
    case .creatorsNeedEachOther(let id): "\(name(id)) and its creator would each have to be born first"
    case .stepsWaitForEachOther(let id):
      "\(name(id)) and others each wait for a namespace or group of the other"
    default: "the tree cannot be made"
    }
  }

  private static func number(_ pid: PID) -> String { pid == .invisible ? "" : " \(pid)" }
}
