import Checkpoint
import Linux
import Tracee

/// One kind of state that a thread asks for, and sets, from inside: asked by calls of a program, set by calls
/// of another.
///
/// A value of the type lives from the question to the answer and holds the places of the calls.
public protocol TaskState: SendableMetatype {
  /// Appends the calls that read the state.
  init(asking program: inout SyscallProgram, in thread: DumpedThread) throws(Failure)

  /// Takes the results of the program that ran in `slot`.
  func record(from slot: Slot, of thread: DumpedThread, into core: inout CoreEntry) throws(Failure)

  /// Replaces what this user cannot set by what every stub has, and names it: "nice value -5: needs CAP_SYS_NICE".
  /// Called before anything is made, and only where privileges are limited.
  static func concede(_ core: inout CoreEntry, to stub: StubState, _ may: Privileges) -> [String]

  /// Appends the calls that give a task under restore the state of `thread.core`.
  static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) throws(Failure)
}

extension TaskState {
  public static func concede(_ core: inout CoreEntry, to stub: StubState, _ may: Privileges) -> [String] { [] }
}

/// State of a whole process, in the order in which it is restored. The thread that runs these is the leader.
public let processStates: [any TaskState.Type] = [
  AddressSpace.self, SignalActions.self, ProcessAttributes.self, IntervalTimers.self, PosixTimers.self,
  ResourceLimits.self, CloseOnExecFlags.self,
]

/// State of each thread, in the order in which it is restored. Credentials come last: they take away
/// the right to set the others.
public let threadStates: [any TaskState.Type] = [
  AlternateStack.self, Scheduling.self, ThreadAttributes.self, Credentials.self,
]

/// A thread under dump.
public final class DumpedThread {
  public let traced: TracedThread
  public let isLeader: Bool
  public let status: ProcStatus
  public var core = CoreEntry()
  /// What the kernel has noted of it, if that was asked.
  public var noted: KernelThread?
  /// The process that it belongs to.
  public unowned var task: DumpedTask?

  public init(_ traced: TracedThread, isLeader: Bool, status: ProcStatus) {
    self.traced = traced
    self.isLeader = isLeader
    self.status = status
  }

  /// The thread's ID in the PID namespace that it lives in.
  public var innermostID: Int32 { status.nsPid.last ?? traced.tid }
}

/// A thread under restore: its image, and the slot through which it is made.
public final class RestoredThread {
  public let image: CoreImage
  public var core: CoreEntry { _read { yield image.entry } }
  public let isLeader: Bool
  /// PID of the process and ID of the thread, in their own PID namespace.
  public let pid: UInt32
  public let tid: UInt32
  public let slot: Slot
  /// ID in the tracer's PID namespace, once the thread exists.
  public var tracerTID: Int32 = 0
  /// The tracer is attached to it.
  public var isAttached = false
  /// What could not be given back exactly; said to the user.
  public var warnings: [String] = []
  public unowned var task: RestoredTask?
  /// What it has already.
  public var stub: StubState?

  public init(core: CoreImage, isLeader: Bool, pid: UInt32, tid: UInt32, slot: Slot) {
    image = core
    self.isLeader = isLeader
    self.pid = pid
    self.tid = tid
    self.slot = slot
  }
}

extension CoreEntry {
  /// The messages of a core image are optional in the format; state is recorded into them as it comes.
  var task: TaskCoreEntry {
    get { tc ?? TaskCoreEntry() }
    set { tc = newValue }
  }

  var thread: ThreadCoreEntry {
    get { threadCore ?? ThreadCoreEntry() }
    set { threadCore = newValue }
  }
}
