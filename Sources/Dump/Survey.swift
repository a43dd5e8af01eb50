import CLinux
import Checkpoint
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

/// What can be seen of a frozen tree from outside, and what of it cannot be dumped.
struct Survey {
  private(set) var tasks: [DumpedTask] = []
  /// Everything that stands in the way, in words.
  private(set) var objections: [String] = []
  private(set) var namespaces: NamespaceTable?
  private var byPID: [Int32: DumpedTask] = [:]
  private let buffer = ReadBuffer()

  private(set) var pidNamespaces: PIDNamespaces

  /// Namespaces whose kinds a task may not differ in from this process.
  private static let namespaces = [
    (name: "net", feature: "net-ns"), ("user", "user-ns"), ("cgroup", "cgroup-ns"), ("time", "time-ns"),
    ("time_for_children", "time-ns"),
  ]

  init() throws(Failure) {
    pidNamespaces = try about("looking at this process's PID namespace") { () throws(Errno) in try PIDNamespaces() }
  }

  /// Looks at every task. Throws only what makes looking impossible.
  mutating func look(at frozen: [FrozenTask], _ options: DumpOptions) throws(Failure) {
    let own = try about("reading this process's namespaces") { () throws(Errno) in
      try links(of: ProcDirectory(pid: getpid()))
    }
    var options = options
    options.tree = Set(frozen.map(\.pid))
    let table = try about("reading this process's namespaces") { () throws(Errno) in try NamespaceTable() }
    for task in frozen {
      guard let directory = task.directory.take() else { continue }
      let status = try about("task \(task.pid): reading its state") { () throws(Errno) in
        ProcStatus(try directory.read("status", buffer))
      }
      let dumped = DumpedTask(
        pid: task.pid, parent: task.parent, directory: directory, stat: task.stat, status: status)
      dumped.rootLevel = (tasks.first ?? dumped).status.nsTgid.count - 1
      // What is named by numbers of an outer PID namespace could not be found again by the numbers in the images.
      if tasks.isEmpty, dumped.imagePID != dumped.pid { options.tree = [] }
      tasks.append(dumped)
      if let objection = try lookAtPIDNamespaces(of: dumped, isZombie: task.isZombie) { objections.append(objection) }
      if task.isZombie { continue }
      try table.look(at: dumped)
      try look(at: dumped, task, own, table, options)
    }
    objections += try table.objections()
    namespaces = table
    checkLeaders(options)
  }

  private mutating func lookAtPIDNamespaces(of task: DumpedTask, isZombie: Bool) throws(Failure) -> String? {
    try about("\(task.description): reading its PID namespaces") { () throws(Errno) in
      let link = try task.directory.link("ns/pid")
      let forChildren = isZombie ? link : try self.link("ns/pid_for_children", of: task.directory)
      return try pidNamespaces.look(at: task, link: link, forChildren: forChildren)
    }
  }

  private func links(of directory: borrowing ProcDirectory) throws(Errno) -> [[UInt8]] {
    var links: [[UInt8]] = []
    for (name, _) in Self.namespaces { links.append(try link("ns/" + name, of: directory)) }
    return links
  }

  /// Empty where there is none: the kernel may lack the kind, and a namespace for children may have no init yet.
  private func link(_ name: String, of directory: borrowing ProcDirectory) throws(Errno) -> [UInt8] {
    do {
      return try directory.link(name)
    } catch {
      if error == .noSuchFileOrDirectory { return [] }
      throw error
    }
  }

  private mutating func look(
    at task: DumpedTask, _ frozen: FrozenTask, _ own: [[UInt8]], _ table: NamespaceTable, _ options: DumpOptions
  )
    throws(Failure)
  {
    let theirs = try about("\(task.description): reading its namespaces") { () throws(Errno) in
      try links(of: task.directory)
    }
    // The first is that of PIDs, which only a task that exits has none of (kernel/exit.c: exit_task_namespaces).
    if theirs[0].isEmpty { throw Failure("\(task.description) died while it was being dumped") }
    var named: Set<String> = []
    for (i, (_, feature)) in Self.namespaces.enumerated()
    where theirs[i] != own[i] && named.insert(feature).inserted {
      objections.append(
        "\(task.description): it lives in a namespace of its own, \(theirs[i].text) (\(feature))")
    }
    task.mappings = try about("\(task.description): reading smaps") { () throws(Errno) in
      let smaps = try task.directory.open("smaps")
      return try Mapping.readAll(smaps.rawValue, buffer)
    }
    if task.mappings.contains(where: { $0.name.starts(with: "/memfd:swift-restore-area".utf8) }) {
      throw Failure(
        "\(task.description) is being restored by another swift-restore", advice: "Dump it when the restore has come to its end.")
    }
    objections += AddressSpace.objections(task)
    objections += try SystemVSharedMemory.objections(task)
    for thread in frozen.threads {
      if !thread.registers.is64Bit {
        objections.append("\(task.description): thread \(thread.tid) runs 32-bit code (compat)")
      }
      let status = try about("\(task.description): thread \(thread.tid)") { () throws(Errno) in
        thread.tid == task.pid
          ? task.status : ProcStatus(try task.directory.read("task/\(thread.tid)/status", buffer))
      }
      if status.seccompMode != 0 {
        try about(
          "\(task.description): suspending its seccomp filters: PTRACE_O_SUSPEND_SECCOMP",
          advice: "This needs CAP_SYS_ADMIN and a swift-restore that is not itself under seccomp."
        ) { () throws(Errno) in try thread.suspendSeccomp() }
      }
      let dumped = DumpedThread(thread, isLeader: thread.tid == task.pid, status: status)
      dumped.task = task
      task.threads.append(dumped)
    }
    task.threads[0].posixTimers = try about("\(task.description): reading its timers") { () throws(Errno) in
      PosixTimers.list(try task.directory.read("timers", buffer))
    }
    task.nameTimersThreads()
    let objection = try about("\(task.description): its threads' namespaces") { () throws(Errno) in
      try table.objection(to: frozen.threads.map(\.tid), of: task)
    }
    if let objection { objections.append(objection) }
    for thread in frozen.threads where thread.tid != task.pid {
      for (kind, feature) in [(KernelObject.files, "unshare-files"), (.fs, "unshare-fs")] {
        let order = try about("\(task.description): kcmp with thread \(thread.tid)") { () throws(Errno) in
          try kcmp(task.pid, thread.tid, kind)
        }
        if order != 0 {
          objections.append(
            "\(task.description): thread \(thread.tid) has \(kind == .files ? "descriptors" : "directories") of its own (\(feature))")
        }
      }
    }
    objections += try DescriptorTable.survey(task, parent: byPID[task.parent], options, buffer)
    byPID[task.pid] = task
    objections += table.objections(to: task)
    if let vdso = task.mappings.first(where: { $0.name == Array("[vdso]".utf8) }) {
      task.process = try TracedProcess(pid: task.pid, threads: frozen.threads, vdso: vdso.start)
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
