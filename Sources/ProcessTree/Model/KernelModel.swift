/// A small model of the kernel's rules for PIDs, PID namespaces, sessions, groups, parents and shared objects.
///
/// It knows nothing of schedules: it offers the system calls, keeps the books as `kernel/fork.c`,
/// `kernel/exit.c`, `kernel/pid.c`, `kernel/pid_namespace.c` and `kernel/sys.c` do, and throws the errno that
/// they would return. Everything is done by a caller with every capability.
public struct KernelModel: Sendable {
  /// A process (thread group), alive or zombie. A reaped one's handle is never used again.
  public struct Process: Hashable, Sendable {
    public let index: Int
  }

  /// A PID namespace.
  public struct Namespace: Hashable, Sendable {
    public let index: Int
  }

  /// `struct pid`: one number in each namespace from the outermost to the one it was made in. It keeps its
  /// numbers as long as anything is attached to it (`kernel/pid.c: __change_pid`).
  struct PIDEntry: Sendable {
    var numbers: [Int32]
    var namespace: Int
    /// The process or thread that it names, then its members as a group and as a session.
    var isTask = true
    var owner: Int
    var groupMembers = 0
    var sessionMembers = 0
  }

  struct NamespaceEntry: Sendable {
    var parent: Int
    var level: Int
    var initProcess: Int?
    /// Cleared when init exits: nothing is born here any more (`PIDNS_ADDING`).
    var isAdding = true
    var entries: [Int32: Int] = [:]
    var lastPID: Int32 = 0
  }

  struct ProcessEntry: Sendable {
    enum State: Hashable, Sendable {
      case alive
      case zombie(WaitStatus)
      case reaped
    }
    var pid: Int
    var parent: Int
    var children: [Int] = []
    var group: Int
    var session: Int
    var threads: [Int] = []
    var state = State.alive
    var exitSignal: SignalNumber
    var namespaceForChildren: Int
    var isChildSubreaper = false
    var hasChildSubreaper: Bool
    /// Cleared by `exec`, set by fork (`PF_FORKNOEXEC`).
    var isForkNoExec = true
    /// Identities of the shared objects, fresh numbers for unshared ones.
    var files: Int
    var fs: Int
    var sighand: Int
    var mm: Int
  }

  var pids: [PIDEntry] = []
  var namespaces: [NamespaceEntry] = []
  var processes: [ProcessEntry] = []
  var objectCount = 4
  /// `/proc/sys/kernel/pid_max`: numbers stay below it.
  public var pidMax: Int32 = 32768

  /// The deepest nesting the kernel allows (`MAX_PID_NS_LEVEL`).
  static let maximumLevel = 32

  /// A machine with nothing but init, which leads session 1.
  public init() {
    namespaces.append(NamespaceEntry(parent: -1, level: 0))
    pids.append(PIDEntry(numbers: [1], namespace: 0, owner: 0, groupMembers: 1, sessionMembers: 1))
    namespaces[0].entries[1] = 0
    namespaces[0].initProcess = 0
    namespaces[0].lastPID = 1
    processes.append(
      ProcessEntry(
        pid: 0, parent: -1, group: 0, session: 0, exitSignal: .child, namespaceForChildren: 0,
        hasChildSubreaper: false, files: 0, fs: 1, sighand: 2, mm: 3))
  }

  /// PID 1 of the machine.
  public var initProcess: Process { Process(index: 0) }
  public var rootNamespace: Namespace { Namespace(index: 0) }

  // MARK: What /proc shows

  /// The namespace that a process lives in.
  public func namespace(of process: Process) -> Namespace { Namespace(index: activeNamespace(process.index)) }

  /// A process's PIDs, outermost first (`NSpid:`).
  public func pids(of process: Process) -> [PID] { numbers(processes[process.index].pid).map { PID($0) } }

  /// The process's PID in a namespace, 0 where it is not visible from it.
  public func pid(of process: Process, in namespace: Namespace) -> PID {
    PID(number(of: processes[process.index].pid, in: namespace.index))
  }

  /// The ID of the process's group in a namespace, 0 where it is not visible from it.
  public func group(of process: Process, in namespace: Namespace) -> PID {
    PID(number(of: processes[process.index].group, in: namespace.index))
  }

  public func isAlive(_ process: Process) -> Bool { processes[process.index].state == .alive }
  public func parent(of process: Process) -> Process { Process(index: processes[process.index].parent) }
  public func children(of process: Process) -> [Process] {
    processes[process.index].children.map(Process.init(index:))
  }

  // MARK: Books

  func activeNamespace(_ process: Int) -> Int { pids[processes[process].pid].namespace }
  func numbers(_ pid: Int) -> [Int32] { pids[pid].numbers }

  /// `kernel/pid.c: pid_nr_ns`.
  func number(of pid: Int, in namespace: Int) -> Int32 {
    let level = namespaces[namespace].level
    guard level < pids[pid].numbers.count else { return 0 }
    let number = pids[pid].numbers[level]
    return namespaces[namespace].entries[number] == pid ? number : 0
  }

  /// Whether `inner` is `outer` or nested in it (`kernel/pid_namespace.c: pidns_is_ancestor`).
  func isNested(_ inner: Int, in outer: Int) -> Bool {
    var at = inner
    while namespaces[at].level > namespaces[outer].level { at = namespaces[at].parent }
    return at == outer
  }

  /// Lets go of a `struct pid` that nothing uses any more.
  mutating func releasePIDIfUnused(_ pid: Int) {
    let entry = pids[pid]
    guard !entry.isTask, entry.groupMembers == 0, entry.sessionMembers == 0 else { return }
    var at = entry.namespace
    while at >= 0 {
      let number = entry.numbers[namespaces[at].level]
      if namespaces[at].entries[number] == pid { namespaces[at].entries[number] = nil }
      at = namespaces[at].parent
    }
  }

  /// The identity of a new shared object.
  mutating func makeObject() -> Int {
    objectCount += 1
    return objectCount - 1
  }
}

/// What a system call of the model fails with.
public struct KernelError: Error, Hashable, Sendable, CustomStringConvertible {
  public enum Errno: String, Hashable, Sendable {
    case EPERM, ESRCH, EAGAIN, ECHILD, ENOMEM, EACCES, EEXIST, EINVAL, ENOSPC
  }

  public var errno: Errno
  public var reason: String

  init(_ errno: Errno, _ reason: String) { (self.errno, self.reason) = (errno, reason) }
  public var description: String { "\(errno.rawValue): \(reason)" }
}
