extension KernelModel {
  /// `clone3(2)` of a process.
  ///
  /// - Parameter setTID: the wanted PIDs, innermost first; the kernel chooses those of the levels beyond it.
  /// - Throws: the errno of `kernel/fork.c: copy_process` and `kernel/pid.c: alloc_pid`.
  public mutating func clone(
    by caller: Process, flags: CloneFlags = [], setTID: [PID] = [], exitSignal: SignalNumber = .child
  ) throws(KernelError) -> Process {
    let parent = caller.index
    try requireAlive(parent)
    guard !flags.contains(.thread) else { throw KernelError(.EINVAL, "threads are made by cloneThread") }
    if flags.contains(.parent) {
      guard exitSignal == .none else { throw KernelError(.EINVAL, "CLONE_PARENT with an exit signal") }
      guard !isInit(parent) else {
        throw KernelError(.EINVAL, "CLONE_PARENT by the init of a namespace")
      }
    }
    guard flags.contains(.vm) || !flags.contains(.sighand) else {
      throw KernelError(.EINVAL, "CLONE_SIGHAND without CLONE_VM")
    }

    let caller = processes[parent]
    var home = caller.namespaceForChildren
    if flags.contains(.newPID) { home = try makeNamespace(for: parent) }
    let pid: Int
    do {
      pid = try allocate(in: home, setTID: setTID, owner: processes.count)
    } catch {
      if flags.contains(.newPID) { namespaces.removeLast() }
      throw error
    }
    pids[caller.group].groupMembers += 1
    pids[caller.session].sessionMembers += 1
    let child = ProcessEntry(
      pid: pid,
      parent: flags.contains(.parent) ? caller.parent : parent,
      group: caller.group,
      session: caller.session,
      exitSignal: flags.contains(.parent) ? caller.exitSignal : exitSignal,
      namespaceForChildren: home,
      hasChildSubreaper: caller.hasChildSubreaper || caller.isChildSubreaper,
      files: share(caller.files, flags.contains(.files)),
      fs: share(caller.fs, flags.contains(.fs)),
      sighand: share(caller.sighand, flags.contains(.sighand)),
      mm: share(caller.mm, flags.contains(.vm)))
    if namespaces[home].initProcess == nil { namespaces[home].initProcess = processes.count }
    processes.append(child)
    processes[child.parent].children.append(processes.count - 1)
    return Process(index: processes.count - 1)
  }

  /// `clone3(2)` of a thread of the caller.
  public mutating func cloneThread(
    by caller: Process, flags: CloneFlags = .threadShares, setTID: [PID] = []
  ) throws(KernelError) -> [PID] {
    try requireAlive(caller.index)
    guard flags.isSuperset(of: [.thread, .sighand, .vm]) else {
      throw KernelError(.EINVAL, "CLONE_THREAD without CLONE_SIGHAND and CLONE_VM")
    }
    let home = activeNamespace(caller.index)
    guard !flags.contains(.newPID), processes[caller.index].namespaceForChildren == home else {
      throw KernelError(.EINVAL, "a thread cannot live in another PID namespace than its leader")
    }
    let pid = try allocate(in: home, setTID: setTID, owner: caller.index)
    processes[caller.index].threads.append(pid)
    return numbers(pid).map { PID($0) }
  }

  /// `unshare(2)` with `CLONE_NEWPID`, `CLONE_FILES` and `CLONE_FS`.
  public mutating func unshare(by caller: Process, flags: CloneFlags) throws(KernelError) {
    let process = caller.index
    try requireAlive(process)
    guard flags.isSubset(of: [.newPID, .files, .fs]) else {
      throw KernelError(.EINVAL, "unshare of \(flags.subtracting([.newPID, .files, .fs]))")
    }
    if flags.contains(.newPID) {
      processes[process].namespaceForChildren = try makeNamespace(for: process)
    }
    if flags.contains(.files) { replace(\.files, of: process) }
    if flags.contains(.fs) { replace(\.fs, of: process) }
  }

  /// `setns(2)` with a PID namespace: only children are moved, and only downwards.
  public mutating func setns(by caller: Process, to namespace: Namespace) throws(KernelError) {
    try requireAlive(caller.index)
    guard isNested(namespace.index, in: activeNamespace(caller.index)) else {
      throw KernelError(.EINVAL, "the namespace is not nested in the caller's")
    }
    guard namespaces[namespace.index].initProcess != nil else {
      throw KernelError(.EINVAL, "a namespace without its first process cannot be opened")
    }
    processes[caller.index].namespaceForChildren = namespace.index
  }

  /// `execve(2)`: the other threads go, handlers, descriptors and address space become the caller's own
  /// (`fs/exec.c: begin_new_exec`).
  public mutating func exec(by caller: Process) throws(KernelError) {
    let process = caller.index
    try requireAlive(process)
    releaseThreads(of: process)
    replace(\.files, of: process)
    replace(\.sighand, of: process)
    replace(\.mm, of: process)
    processes[process].exitSignal = .child
    processes[process].isForkNoExec = false
  }

  // MARK: Parts

  func requireAlive(_ process: Int) throws(KernelError) {
    guard processes[process].state == .alive else { throw KernelError(.ESRCH, "the caller has exited") }
  }

  /// Whether a process is the init of its namespace (`kernel/pid.c: is_child_reaper`).
  func isInit(_ process: Int) -> Bool { namespaces[activeNamespace(process)].initProcess == process }

  /// `kernel/pid_namespace.c: copy_pid_ns`, `create_pid_namespace`.
  private mutating func makeNamespace(for process: Int) throws(KernelError) -> Int {
    let active = activeNamespace(process)
    guard processes[process].namespaceForChildren == active else {
      throw KernelError(.EINVAL, "CLONE_NEWPID while children are already born in another namespace")
    }
    guard namespaces[active].level < Self.maximumLevel else {
      throw KernelError(.ENOSPC, "PID namespaces are nested too deep")
    }
    namespaces.append(NamespaceEntry(parent: active, level: namespaces[active].level + 1))
    return namespaces.count - 1
  }

  /// `kernel/pid.c: alloc_pid`.
  private mutating func allocate(in home: Int, setTID: [PID], owner: Int) throws(KernelError) -> Int {
    let level = namespaces[home].level
    guard setTID.count <= level + 1 else {
      throw KernelError(.EINVAL, "set_tid names \(setTID.count) levels, the namespace has \(level + 1)")
    }
    var numbers = [Int32](repeating: 0, count: level + 1)
    var at = home
    for depth in 0...level {
      if depth < setTID.count {
        let number = setTID[depth].rawValue
        guard number >= 1, number < pidMax else {
          throw KernelError(.EINVAL, "PID \(number) is out of range")
        }
        guard number == 1 || namespaces[at].initProcess != nil else {
          throw KernelError(.EINVAL, "the first PID of a namespace is 1, not \(number)")
        }
        guard namespaces[at].entries[number] == nil else {
          throw KernelError(.EEXIST, "PID \(number) is taken at level \(level - depth)")
        }
        numbers[level - depth] = number
      } else {
        var number = namespaces[at].lastPID
        repeat {
          number += 1
          if number >= pidMax { number = 2 }
        } while namespaces[at].entries[number] != nil
        numbers[level - depth] = number
        namespaces[at].lastPID = number
      }
      at = namespaces[at].parent
    }
    guard namespaces[home].isAdding else {
      throw KernelError(.ENOMEM, "the namespace's init has exited")
    }
    let pid = pids.count
    at = home
    while at >= 0 {
      namespaces[at].entries[numbers[namespaces[at].level]] = pid
      at = namespaces[at].parent
    }
    pids.append(PIDEntry(numbers: numbers, namespace: home, owner: owner))
    return pid
  }

  private mutating func share(_ object: Int, _ isShared: Bool) -> Int { isShared ? object : makeObject() }

  private mutating func replace(_ object: WritableKeyPath<ProcessEntry, Int>, of process: Int) {
    processes[process][keyPath: object] = makeObject()
  }

  mutating func releaseThreads(of process: Int) {
    for thread in processes[process].threads {
      pids[thread].isTask = false
      releasePIDIfUnused(thread)
    }
    processes[process].threads = []
  }
}
