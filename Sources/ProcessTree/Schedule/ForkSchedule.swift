/// The steps that make a recorded tree again, each naming the task that executes it.
///
/// The steps may be executed one after the other in the order of `steps`, or, to keep every core busy, in any
/// order that honours `Step.dependencies`; `waves` is such an order. Every step is one system call of its
/// executor. The tool executes only the clone of its own children.
public struct ForkSchedule: Hashable, Sendable {
  /// Who executes a step, or what it acts on.
  public enum Actor: Hashable, Sendable {
    /// The restoring tool itself.
    case tool
    case task(TaskID)
    case helper(HelperID)
  }

  /// A task made only so that a session, a group or a parent exists while the tree is built.
  public struct Helper: Hashable, Sendable {
    /// What the helper is there for.
    public enum Purpose: Hashable, Sendable {
      /// Carries the ID of a session whose leader is gone.
      case session(PID)
      /// Carries the ID of a process group whose leader is gone.
      case group(PID)
      /// Stays in a group while its leader, who is to leave it, has not yet been followed by a member.
      case groupKeeper(PID)
      /// Makes siblings that inherit a group, which is not visible in their namespace.
      case groupEntry(PID)
      /// Stays in the session that the tool is in, and makes members of it after the root has left it.
      case outsideSession
      /// Makes the init of a namespace whose outer namespace the init's parent does not live in, or somebody in a
      /// namespace that is not there yet when the parent leaves the session or group.
      case namespaceEntry
      /// Is the parent of tasks that become orphans when it exits.
      case parentOfOrphans
      /// Makes tasks that share something with each other, and not with their parent.
      case sharing
      /// Is init of the namespace that the tree is restored in; it lives on with the tree.
      case namespaceInit
      /// Was init of a namespace that is dead but still somebody's namespace for children.
      case deadNamespaceInit
    }

    public var id: HelperID
    public var purpose: Purpose
    /// The PIDs it must have, one per named level, outermost first. Empty where any will do that
    /// `ForkSchedule.isReserved` does not know.
    public var pids: [PID]
    /// The namespace it lives in.
    public var pidNamespace: PIDNamespaceID
  }

  /// The arguments of a `clone3(2)`.
  public struct Clone: Hashable, Sendable {
    public var child: Actor
    public var flags: CloneFlags
    /// `set_tid`: innermost level first. Empty for a helper that may have any PID that is not reserved
    /// (`ForkSchedule.isReserved`); with `CLONE_NEWPID` it begins with 1.
    public var setTID: [PID]
    /// 0 with `CLONE_PARENT`, where the kernel copies the signal of the caller.
    public var exitSignal: SignalNumber
  }

  /// The process group that a task is put into.
  public enum Group: Hashable, Sendable {
    /// A new one, or again its own: `setpgid(target, 0)`.
    case own
    /// The one with this ID in the executing task's PID namespace.
    case id(PID)
    /// The group of the restoring tool, which stands for a group led from outside the tree.
    case external
  }

  /// One system call.
  public enum Action: Hashable, Sendable {
    case clone(Clone)
    /// Threads come last: `index` counts within `RecordedTask.threads`.
    case makeThread(index: Int, flags: CloneFlags, setTID: [PID])
    case setsid
    /// `target` is the executing task or a child of it.
    case setpgid(target: Actor, group: Group)
    /// Children are from now on born in that namespace: `setns(2)` with `/proc/PID/ns/pid` of the one whom
    /// `namespaceInits` names, or, where it names nobody, of the executing task itself.
    case setns(PIDNamespaceID)
    case unshare(CloneFlags)
    /// Replaces the address space and the handlers by ones of its own (`execve(2)` of the stub).
    case exec
    /// `PR_SET_CHILD_SUBREAPER`.
    case setChildSubreaper(Bool)
    case exit(WaitStatus)
    /// Reaps this child, and waits until it has exited.
    case wait(Actor)
  }

  public struct Step: Hashable, Sendable {
    public var executor: Actor
    public var action: Action
    /// The steps (places in `steps`, ascending) that must be complete before this one starts. The previous
    /// step of the same executor, or the clone that made it, is among them or before one of them.
    public var dependencies: [Int]
  }

  public var steps: [Step]
  public var helpers: [Helper]
  /// The steps (places in `steps`) that may run at the same time. Within a wave, the steps of one executor
  /// follow each other in order and form one program; steps of different executors are independent.
  public var waves: [[Int]]
  /// The numbers that recorded tasks, threads, sessions and groups use in each namespace.
  public var reservedPIDs: [PIDNamespaceID: Set<PID>]
  /// Who is PID 1 of each namespace that the schedule makes; `/proc/PID/ns/pid` of it is what `setns` needs.
  public var namespaceInits: [PIDNamespaceID: Actor]

  /// Whether a helper must keep away from a number because the tree uses it in that namespace.
  public func isReserved(_ pid: PID, in namespace: PIDNamespaceID) -> Bool {
    reservedPIDs[namespace]?.contains(pid) ?? false
  }

  /// Who goes by the waves need not be told what each step waits for, which is a list for each.
  public mutating func forgetDependencies() {
    for i in steps.indices { steps[i].dependencies = [] }
  }

  /// What the caller asks of a schedule.
  public struct Options: Hashable, Sendable {
    /// Sessions and groups led from outside the tree are inherited from the restoring shell.
    public var shellJob: Bool
    /// The outermost level whose PIDs are named; the kernel chooses those of the levels outside it.
    public var outermostNamedLevel: Int
    /// Restore in a new PID namespace, whose init is a helper; the tree's levels keep their PIDs.
    public var newPIDNamespace: Bool

    public init(shellJob: Bool = false, outermostNamedLevel: Int = 0, newPIDNamespace: Bool = false) {
      self.shellJob = shellJob
      self.outermostNamedLevel = outermostNamedLevel
      self.newPIDNamespace = newPIDNamespace
    }
  }
}
