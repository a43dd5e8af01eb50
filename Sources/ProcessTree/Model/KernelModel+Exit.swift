extension KernelModel {
  /// `setsid(2)`.
  public mutating func setsid(by caller: Process) throws(KernelError) {
    let process = caller.index
    try requireAlive(process)
    let pid = processes[process].pid
    guard processes[process].session != pid else { throw KernelError(.EPERM, "it leads a session already") }
    guard pids[pid].groupMembers == 0 else {
      throw KernelError(.EPERM, "a process group with the caller's PID exists")
    }
    moveToGroup(process, pid)
    pids[processes[process].session].sessionMembers -= 1
    releasePIDIfUnused(processes[process].session)
    processes[process].session = pid
    pids[pid].sessionMembers += 1
  }

  /// `setpgid(2)`; 0 stands for the caller, or for the target's own group.
  public mutating func setpgid(by caller: Process, pid: PID, group: PID) throws(KernelError) {
    let process = caller.index
    try requireAlive(process)
    let home = namespaces[activeNamespace(process)]
    let ownNumber = number(of: processes[process].pid, in: activeNamespace(process))
    let targetNumber = pid == .invisible ? ownNumber : pid.rawValue
    let groupNumber = group == .invisible ? targetNumber : group.rawValue
    guard let targetPID = home.entries[targetNumber], pids[targetPID].isTask else {
      throw KernelError(.ESRCH, "no process \(targetNumber)")
    }
    let target = pids[targetPID].owner
    guard processes[target].pid == targetPID else {
      throw KernelError(.EINVAL, "\(targetNumber) is not a thread group leader")
    }
    if processes[target].parent == process {
      guard processes[target].session == processes[process].session else {
        throw KernelError(.EPERM, "the child is in another session")
      }
      guard processes[target].isForkNoExec else { throw KernelError(.EACCES, "the child has called execve") }
    } else if target != process {
      throw KernelError(.ESRCH, "\(targetNumber) is neither the caller nor its child")
    }
    guard processes[target].session != targetPID else {
      throw KernelError(.EPERM, "a session leader cannot change its group")
    }
    var groupPID = targetPID
    if groupNumber != targetNumber {
      guard let found = home.entries[groupNumber], pids[found].groupMembers > 0,
        let session = sessionOfGroup(found), session == processes[process].session
      else {
        throw KernelError(.EPERM, "no process group \(groupNumber) in the caller's session")
      }
      groupPID = found
    }
    moveToGroup(target, groupPID)
  }

  /// `PR_SET_CHILD_SUBREAPER`; descendants remember that there is one above them
  /// (`kernel/sys.c: propagate_has_child_subreaper`).
  public mutating func setChildSubreaper(by caller: Process, _ isOn: Bool) throws(KernelError) {
    try requireAlive(caller.index)
    processes[caller.index].isChildSubreaper = isOn
    guard isOn else { return }
    var pending = processes[caller.index].children
    while let next = pending.popLast() {
      if processes[next].hasChildSubreaper || isInit(next) { continue }
      processes[next].hasChildSubreaper = true
      pending += processes[next].children
    }
  }

  /// The end of a process with all its threads, by itself or by a signal.
  ///
  /// - Throws: `EAGAIN` where the kernel would block: the init of a namespace waits for the zombies that
  ///   someone outside has to reap.
  public mutating func exit(_ caller: Process, status: WaitStatus) throws(KernelError) {
    try requireAlive(caller.index)
    if isInit(caller.index) { try killNamespace(of: caller.index) }
    let process = caller.index
    releaseThreads(of: process)
    for child in processes[process].children {
      let reaper = newReaper(of: process)
      processes[child].parent = reaper
      processes[child].exitSignal = .child
      processes[reaper].children.append(child)
    }
    processes[process].children = []
    processes[process].state = .zombie(status)
  }

  /// `waitpid(2)` for one child, by its PID in the caller's namespace.
  ///
  /// - Throws: `ECHILD`, or `EAGAIN` where the call would block.
  public mutating func wait(by caller: Process, for child: Process) throws(KernelError) -> WaitStatus {
    try requireAlive(caller.index)
    guard processes[child.index].parent == caller.index, processes[child.index].state != .reaped else {
      throw KernelError(.ECHILD, "not a child of the caller")
    }
    guard case .zombie(let status) = processes[child.index].state else {
      throw KernelError(.EAGAIN, "the child is alive")
    }
    release(child.index)
    return status
  }

  // MARK: Parts

  private mutating func moveToGroup(_ process: Int, _ group: Int) {
    let old = processes[process].group
    guard old != group else { return }
    pids[group].groupMembers += 1
    pids[old].groupMembers -= 1
    processes[process].group = group
    releasePIDIfUnused(old)
  }

  /// The session that a group's members are in; they are all in one.
  private func sessionOfGroup(_ group: Int) -> Int? {
    let owner = pids[group].owner
    if processes[owner].pid == group, processes[owner].group == group, processes[owner].state != .reaped {
      return processes[owner].session
    }
    return processes.first { $0.group == group && $0.state != .reaped }?.session
  }

  /// `kernel/exit.c: find_new_reaper`.
  private func newReaper(of father: Int) -> Int {
    let home = activeNamespace(father)
    if processes[father].hasChildSubreaper {
      var at = processes[father].parent
      while at > 0, namespaces[activeNamespace(at)].level == namespaces[home].level {
        if processes[at].isChildSubreaper, processes[at].state == .alive { return at }
        at = processes[at].parent
      }
    }
    return namespaces[home].initProcess ?? 0
  }

  /// `kernel/pid_namespace.c: zap_pid_ns_processes`.
  private mutating func killNamespace(of initProcess: Int) throws(KernelError) {
    let home = activeNamespace(initProcess)
    var victims: [Int] = []
    for pid in namespaces[home].entries.values where pids[pid].isTask {
      let process = pids[pid].owner
      if processes[process].pid == pid, process != initProcess { victims.append(process) }
    }
    for victim in victims where !isNested(activeNamespace(processes[victim].parent), in: home) {
      throw KernelError(.EAGAIN, "init waits for a process whose parent is outside the namespace")
    }
    namespaces[home].isAdding = false
    for victim in victims {
      let inner = activeNamespace(victim)
      if namespaces[inner].initProcess == victim { namespaces[inner].isAdding = false }
      releaseThreads(of: victim)
    }
    processes[initProcess].children = []
    for victim in victims {
      processes[victim].children = []
      processes[victim].parent = initProcess
      release(victim)
    }
  }

  /// `kernel/exit.c: release_task`.
  private mutating func release(_ process: Int) {
    let entry = processes[process]
    if let place = processes[entry.parent].children.firstIndex(of: process) {
      processes[entry.parent].children.remove(at: place)
    }
    processes[process].state = .reaped
    pids[entry.pid].isTask = false
    pids[entry.group].groupMembers -= 1
    pids[entry.session].sessionMembers -= 1
    releasePIDIfUnused(entry.group)
    releasePIDIfUnused(entry.session)
    releasePIDIfUnused(entry.pid)
  }
}
