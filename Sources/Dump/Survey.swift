import CLinux
import Checkpoint
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

/// The tasks that were looked at last, of a tree of very many, or with very many mappings: those that have mappings like nobody else near
/// them do not keep these.
private struct RecentMappings {
  private var tasks: [DumpedTask] = []
  private var isUsed: Bool
  private let isPossible: Bool
  /// Until it is used: how many mappings there are, what is held in common counted once, and how many the largest has.
  private var total = 0
  private var largest = 0
  private var lastKept: Place?

  /// So many tasks wait for somebody who has the same mappings.
  private static let most = 16
  /// The tracer and its companion each hold those of the task before in common with the next: so many are compared in any case.
  private static let fewest = 3
  /// So many mappings may be held.
  private static let mostMappings = 1 << 15

  private typealias Place = UnsafePointer<Mapping>

  init(ofMany: Bool, isPossible: Bool) { (isUsed, self.isPossible) = (ofMany, isPossible) }

  mutating func append(_ task: DumpedTask) {
    guard isPossible, !task.isForeseen else { return }
    if !isUsed {
      if !tasks.suffix(2).contains(where: { Self.place(of: $0) == Self.place(of: task) }) { total += task.mappings.count }
      largest = max(largest, task.mappings.count)
      isUsed = total - largest > Self.mostMappings
    }
    tasks.append(task)
    guard isUsed else { return }
    while tasks.count >= Self.most { decide(on: Self.most / 2) }
    while tasks.count >= Self.fewest, held > Self.mostMappings { decide(on: 1) }
  }

  private static func place(of task: DumpedTask) -> Place? { task.mappings.withUnsafeBufferPointer(\.baseAddress) }

  private var held: Int {
    var places: Set<Place?> = []
    return tasks.reduce(0) { places.insert(Self.place(of: $1)).inserted ? $0 + $1.mappings.count : $0 }
  }

  private mutating func decide(on count: Int) {
    let places = tasks.map(Self.place)
    for (task, place) in zip(tasks.prefix(count), places) {
      if place == lastKept || places.count(where: { $0 == place }) > 1 { lastKept = place } else { task.loseMappings() }
    }
    tasks.removeFirst(count)
  }
}

/// What can be seen of a frozen tree from outside, and what of it cannot be dumped.
struct Survey {
  private(set) var tasks: [DumpedTask] = []
  /// Everything that stands in the way, in words.
  private(set) var objections: [String] = []
  private(set) var namespaces: NamespaceTable?
  private var byPID: [Int32: DumpedTask] = [:]
  private let examiner: DescriptorExaminer

  private(set) var pidNamespaces: PIDNamespaces

  /// Namespaces whose kinds a task may not differ in from this process.
  private static let foreignNamespaces: [NamespaceInodes.Kind] = [.net, .user, .cgroup, .time, .timeForChildren]

  /// Looks at every task. Throws only what makes looking impossible.
  init(looking frozen: [DumpedTask], _ glances: Glances, _ options: DumpOptions, _ companion: Companion) throws(Failure) {
    examiner = DescriptorExaminer(companion)
    pidNamespaces = try about("looking at this process's PID namespace") { () throws(Errno) in try PIDNamespaces() }
    let own = try about("reading this process's namespaces") { () throws(Errno) in
      try NamespaceInodes(folder: .own).all()
    }
    var options = options
    options.tree = Set(frozen.map(\.pid))
    let table = try about("reading this process's namespaces") { () throws(Errno) in try NamespaceTable() }
    var recent = RecentMappings(ofMany: frozen.count > Batches.most, isPossible: frozen.count > 1 && !options.snapshot)
    for dumped in frozen {
      guard let glance = try glances.next() else { continue }
      dumped.status = glance.status
      dumped.rootLevel = Int32((tasks.first ?? dumped).status.levelCount - 1)
      // What is named by numbers of an outer PID namespace could not be found again by the numbers in the images.
      if tasks.isEmpty, dumped.imagePID != dumped.pid { options.tree = [] }
      tasks.append(dumped)
      if let objection = try lookAtPIDNamespaces(of: dumped, glance) { objections.append(objection) }
      if dumped.isZombie { continue }
      // The first is that of PIDs, which only a task that exits has none of (kernel/exit.c: exit_task_namespaces).
      if glance.namespace(.net) == 0 { throw Failure("\(dumped.description) died while it was being dumped") }
      try table.look(at: dumped, inodes: glance.namespace)
      try look(at: dumped, glance, own, table, options)
      recent.append(dumped)
    }
    table.pidNamespaceIDs = pidNamespaces.ids
    objections += try table.objections()
    namespaces = table
    checkLeaders(options)
    byPID = [:]
  }

  private mutating func lookAtPIDNamespaces(of task: DumpedTask, _ glance: Glance) throws(Failure) -> String? {
    try about("\(task.description): reading its PID namespaces") { () throws(Errno) in
      try pidNamespaces.look(at: task, inode: glance.namespace(.pid), forChildren: glance.namespace(.pidForChildren))
    }
  }

  private mutating func look(
    at task: DumpedTask, _ glance: Glance, _ own: [UInt64], _ table: NamespaceTable,
    _ options: DumpOptions
  )
    throws(Failure)
  {
    var named: Set<String> = []
    for (kind, own) in zip(NamespaceInodes.Kind.allCases, own) where Self.foreignNamespaces.contains(kind) {
      let theirs = glance.namespace(kind)
      guard theirs != own, named.insert(kind.family).inserted else { continue }
      objections.append(
        "\(task.description): it lives in a namespace of its own, \(kind.family):[\(theirs)] (\(kind.family)-ns)")
    }
    task.mappings = glance.mappings
    task.scanAhead = glance.scanAhead
    task.isForeseen = glance.isForeseen
    if task.mappings.contains(where: { $0.name.starts(with: "/memfd:swift-restore-".utf8) }) {
      throw Failure(
        "\(task.description) is being restored by another swift-restore", advice: "Dump it when the restore has come to its end.")
    }
    objections += AddressSpace.objections(task)
    objections += try SystemVSharedMemory.objections(task)
    task.threads.reserveCapacity(task.traced.count > 1 ? task.traced.count : 0)
    for (i, thread) in task.traced.enumerated() {
      // The leader is the first of them, and not among the glances at the others.
      if i > 0, i > glance.threads.count || glance.threads[i - 1].tid != thread.tid {
        throw Failure("\(task.description): thread \(thread.tid) was not looked at")
      }
      let status = i == 0 ? task.status : glance.threads[i - 1].status
      let noted = i == 0 ? nil : glance.threads[i - 1].noted
      if !thread.runs64BitCode {
        objections.append("\(task.description): thread \(thread.tid) runs 32-bit code (compat)")
      }
      // One that is like the first is so in this too.
      if noted == nil, Ptrace.dispatchesSyscalls(thread.tid) {
        objections.append("\(task.description): thread \(thread.tid) handles system calls itself (syscall-user-dispatch)")
      }
      if status.seccompMode != 0 {
        try about(
          "\(task.description): suspending its seccomp filters: PTRACE_O_SUSPEND_SECCOMP",
          advice: "This needs CAP_SYS_ADMIN and a swift-restore that is not itself under seccomp."
        ) { () throws(Errno) in try thread.suspendSeccomp() }
      }
      // The view of an only thread is made when it is the task's turn.
      guard task.traced.count > 1 else { continue }
      let dumped = DumpedThread(thread, isLeader: thread.tid == task.pid, status: status)
      dumped.task = task
      dumped.noted = noted
      task.threads.append(dumped)
    }
    task.posixTimers = glance.timers
    task.nameTimersThreads()
    if let (tid, kind) = glance.stray {
      objections.append("\(task.description): thread \(tid) lives in another namespace than its process (\(kind.rawValue)-ns)")
    }
    for thread in glance.threads {
      var unshared = thread.unshared
      if unshared == nil { unshared = try ThreadGlance.unshared(thread.tid, task.pid, task.pid) }
      for kind in unshared ?? [] {
        let (what, feature) = kind == .files ? ("descriptors", "unshare-files") : ("directories", "unshare-fs")
        objections.append("\(task.description): thread \(thread.tid) has \(what) of its own (\(feature))")
      }
    }
    objections += try DescriptorTable.survey(task, parent: byPID[task.parent], options, examiner)
    byPID[task.pid] = task
    objections += table.objections(to: task)
    if let vdso = task.mappings.first(where: { $0.name == Array("[vdso]".utf8) }) {
      task.vdso = vdso.start
    } else {
      objections.append("\(task.description): it has no vDSO (vdso)")
    }
  }

  /// Sessions and groups must be led from inside the tree, or be the restoring shell's.
  private mutating func checkLeaders(_ options: DumpOptions) {
    guard let root = tasks.first, !options.shellJob else { return }
    if root.stat.session != root.pid {
      objections.append(
        "\(root.description): its session \(root.stat.session) is led from outside of the tree (shell-job: give --shell-job)"
      )
    }
  }
}
