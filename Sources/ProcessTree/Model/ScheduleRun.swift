/// Executes a schedule on the model of the kernel.
public struct ScheduleRun: Sendable {
  /// A step that the kernel refuses, or that the schedule could not have meant.
  public struct Failure: Error, Sendable, CustomStringConvertible {
    public var step: Int
    public var text: String
    public var description: String { "step \(step): \(text)" }
  }

  public private(set) var kernel: KernelModel
  public let tool: KernelModel.Process
  private let schedule: ForkSchedule
  private var processes: [ForkSchedule.Actor: KernelModel.Process]
  private var namespaceIDs: [Int: PIDNamespaceID] = [:]

  /// - Parameter tool: the process that restores; it exists in `kernel` already.
  public init(_ schedule: ForkSchedule, on kernel: KernelModel, tool: KernelModel.Process) {
    (self.schedule, self.kernel, self.tool) = (schedule, kernel, tool)
    processes = [.tool: tool]
  }

  /// The process that a task or helper has become.
  public func process(of actor: ForkSchedule.Actor) -> KernelModel.Process? { processes[actor] }

  /// Executes the steps in this order, each exactly once, and checks that the order honours the dependencies.
  public mutating func execute(order: some Sequence<Int>) throws(Failure) {
    var done = Array(repeating: false, count: schedule.steps.count)
    for place in order {
      let step = schedule.steps[place]
      if let missing = step.dependencies.first(where: { !done[$0] }) {
        throw Failure(step: place, text: "\(step) before step \(missing), which it depends on")
      }
      guard !done[place] else { throw Failure(step: place, text: "is executed twice") }
      do {
        try execute(step)
      } catch {
        throw Failure(step: place, text: "\(step): \(error)")
      }
      done[place] = true
    }
    if let missing = done.firstIndex(of: false) { throw Failure(step: missing, text: "was never executed") }
  }

  private mutating func execute(_ step: ForkSchedule.Step) throws(KernelError) {
    let caller = try find(step.executor)
    switch step.action {
    case .clone(let clone):
      guard processes[clone.child] == nil else { throw KernelError(.EEXIST, "\(clone.child) is made twice") }
      let child = try kernel.clone(
        by: caller, flags: clone.flags, setTID: clone.setTID.isEmpty ? freeTIDs(caller) : clone.setTID,
        exitSignal: clone.exitSignal)
      processes[clone.child] = child
    case .makeThread(_, let flags, let setTID):
      _ = try kernel.cloneThread(by: caller, flags: flags, setTID: setTID)
    case .setsid: try kernel.setsid(by: caller)
    case .setpgid(let target, let group):
      let home = kernel.namespace(of: caller)
      let number: PID
      switch group {
      case .own: number = .invisible
      case .id(let pid): number = pid
      case .external:
        number = kernel.group(of: tool, in: home)
        guard number != .invisible else { throw KernelError(.ESRCH, "the tool's group is not visible") }
      }
      let pid: PID = target == step.executor ? .invisible : kernel.pid(of: try find(target), in: home)
      try kernel.setpgid(by: caller, pid: pid, group: number)
    case .setns(let id):
      let leader = try schedule.namespaceInits[id].map { (actor) throws(KernelError) in try find(actor) }
      try kernel.setns(by: caller, to: kernel.namespace(of: leader ?? caller))
    case .unshare(let flags): try kernel.unshare(by: caller, flags: flags)
    case .exec: try kernel.exec(by: caller)
    case .setChildSubreaper(let isOn): try kernel.setChildSubreaper(by: caller, isOn)
    case .exit(let status): try kernel.exit(caller, status: status)
    case .wait(let child): _ = try kernel.wait(by: caller, for: try find(child))
    }
  }

  private func find(_ actor: ForkSchedule.Actor) throws(KernelError) -> KernelModel.Process {
    guard let process = processes[actor] else { throw KernelError(.ESRCH, "\(actor) does not exist") }
    return process
  }

  /// Numbers that the tree leaves free: the smallest, which are the likeliest to be in the way.
  private func freeTIDs(_ caller: KernelModel.Process) -> [PID] {
    var pid: Int32 = 2
    let reserved = schedule.reservedPIDs.values
    while reserved.contains(where: { $0.contains(PID(pid)) }) || kernel.isTaken(pid) { pid += 1 }
    return Array(repeating: PID(pid), count: kernel.levelsOfChildren(of: caller))
  }
}

extension KernelModel {
  /// Whether any namespace uses a number.
  func isTaken(_ number: Int32) -> Bool { namespaces.contains { $0.entries[number] != nil } }

  /// How many PIDs a child of the process will have.
  func levelsOfChildren(of process: Process) -> Int {
    namespaces[processes[process.index].namespaceForChildren].level + 1
  }
}
