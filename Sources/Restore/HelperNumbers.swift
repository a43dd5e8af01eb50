import Glibc
import Linux
import ProcessTree

/// PIDs for the helpers of a schedule. Those that may have any get numbers that the tree does not use and nobody has, from the
/// highest down: a number that the kernel would choose could be one that a task still to be born must have.
struct HelperNumbers {
  private let schedule: ForkSchedule
  private let levels: Levels
  private let namespaces: [PIDNamespaceID: RecordedNamespace]
  /// Where the search in each namespace goes on.
  private var next: [PIDNamespaceID: Int32] = [:]
  /// The numbers that are known, outermost first, and the level of the first of them.
  private var numbers: [HelperID: (first: Int, pids: [Int32])] = [:]
  /// Numbers of process groups and sessions in the tool's namespace, whose leader may have gone.
  private lazy var kept = Holder.groupsAndSessions()
  init(_ plan: Plan) {
    schedule = plan.schedule
    levels = plan.levels
    namespaces = Dictionary(plan.tree.namespaces.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
  }

  /// The kernel gives out smaller numbers only (man 5 proc_sys_kernel).
  static let pidMax: Int32 = {
    guard let file = try? Descriptor.open("/proc/sys/kernel/pid_max") else { return 32768 }
    let buffer = ReadBuffer()
    guard let text = try? buffer.readAll(file.rawValue) else { return 32768 }
    var cursor = ByteCursor(text)
    return withExtendedLifetime(buffer) { Int32(truncatingIfNeeded: cursor.decimal()) }
  }()

  func level(of namespace: PIDNamespaceID) -> Int { namespaces[namespace]?.level ?? 0 }

  /// The PID of a helper at a level, if it is known.
  func number(of helper: HelperID, at level: Int) -> Int32? {
    guard let (first, pids) = numbers[helper], pids.indices.contains(level - first) else { return nil }
    return pids[level - first]
  }

  /// The `set_tid` of a helper, innermost first.
  mutating func choose(_ id: HelperID, planned: [PID]) -> [PID] {
    let helper = schedule.helpers[id.index]
    var chosen = planned
    if planned.isEmpty {
      // Levels around the tool's are left to the kernel: they cannot be looked at from here.
      var at: PIDNamespaceID? = helper.pidNamespace
      while let namespace = at, level(of: namespace) >= max(levels.outermostNamed, levels.tool) {
        chosen.append(PID(free(in: namespace)))
        at = namespaces[namespace]?.parent
      }
    }
    numbers[id] = (level(of: helper.pidNamespace) - chosen.count + 1, chosen.reversed().map(\.rawValue))
    return chosen
  }

  /// The namespace at a level on the way outwards from another.
  func namespace(at level: Int, around inner: PIDNamespaceID) -> PIDNamespaceID? {
    var at = namespaces[inner]
    while let namespace = at, namespace.level > level { at = namespace.parent.flatMap { namespaces[$0] } }
    return at?.id
  }

  private mutating func free(in namespace: PIDNamespaceID) -> Int32 {
    var number = next[namespace] ?? Self.pidMax - 1
    while number > 1,
      schedule.isReserved(PID(number), in: namespace)
        || level(of: namespace) == levels.tool && (kill(number, 0) == 0 || errno != ESRCH || kept.contains(number))
    { number -= 1 }
    next[namespace] = number - 1
    return number
  }
}
