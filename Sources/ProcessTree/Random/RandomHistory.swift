/// A process tree that really could exist, because it is the end of a random history on the model.
///
/// The same seed and limits give the same history.
public struct RandomHistory: Sendable {
  /// What may happen in a history, and how much of it.
  public struct Limits: Sendable {
    public var tasks = 60
    /// Levels of PID namespaces below the outermost one.
    public var innerLevels = 0
    public var namespacesPerLevel = 5
    /// Calls per task that is wanted.
    public var eventsPerTask = 4
    /// Whether tasks share objects without being threads, and give their parent unusual exit signals.
    public var unusualClones = true
    /// Whether address spaces are among the objects that they share.
    public var sharedMemory = true
    public init() {}
  }

  /// A system call of the history, for those who want to make it live. Processes are numbered in the order of their births; the
  /// root's number is that of the first clone.
  public enum Call: Sendable {
    case clone(by: Int, child: Int, flags: CloneFlags, exitSignal: SignalNumber)
    case thread(by: Int)
    case setsid(by: Int)
    /// `setpgid(2)` of a child, or of the caller, into the group that another process is in; nil: into its own.
    case setpgid(by: Int, target: Int, groupOf: Int?)
    case setChildSubreaper(by: Int, Bool)
    case exit(by: Int, WaitStatus)
    case wait(by: Int, for: Int)
    case exec(by: Int)
    case unshare(by: Int, flags: CloneFlags)
    /// Into the namespace that another process lives in.
    case setns(by: Int, to: Int)
  }

  /// One thing that a task of the tree does.
  enum Event: CaseIterable {
    case fork, forkSharing, forkSibling, forkSilently, thread
    case setsid, leadGroup, joinGroup, moveChild
    case exit, reap, daemonize, doubleFork
    case becomeSubreaper, resignSubreaper, exec, unshareObjects
    case newNamespace, unshareNamespace, enterNamespace, comeBack

    /// How often it happens, relative to the others.
    var weight: Int {
      switch self {
      case .fork: 24
      case .setsid, .exit, .leadGroup, .joinGroup: 8
      case .reap, .daemonize, .doubleFork: 5
      case .moveChild, .thread, .becomeSubreaper, .enterNamespace: 3
      case .newNamespace: 3
      case .forkSharing, .forkSibling, .unshareNamespace, .comeBack: 2
      case .forkSilently, .resignSubreaper, .exec, .unshareObjects: 1
      }
    }

    var isUnusual: Bool {
      switch self {
      case .forkSharing, .forkSilently, .exec, .unshareObjects: true
      default: false
      }
    }

    var needsNamespaces: Bool {
      switch self {
      case .newNamespace, .unshareNamespace, .enterNamespace, .comeBack: true
      default: false
      }
    }
  }

  public private(set) var kernel = KernelModel()
  public private(set) var root: KernelModel.Process
  /// What has been done, from the birth of the root on.
  public private(set) var calls: [Call] = []
  /// The process that started the root, as a shell does.
  public let shell: KernelModel.Process
  /// How many events were attempted.
  public private(set) var eventCount = 0
  private var random: SplitMix64
  private let limits: Limits
  private var processes: [KernelModel.Process] = []
  private var namespaceCounts: [Int: Int] = [:]

  /// - Parameter skipped: events that do not happen; every other event still makes the same random choices,
  ///   so that a history can be shrunk.
  public init(seed: UInt64, limits: Limits = Limits(), skipping skipped: Set<Int> = []) throws(KernelError) {
    random = SplitMix64(seed: seed)
    self.limits = limits
    shell = try kernel.clone(by: kernel.initProcess, setTID: [PID(900)])
    try kernel.setsid(by: shell)
    let number = PID(Int32.random(in: 2...300, using: &random))
    if limits.innerLevels > 0, Int.random(in: 0..<3, using: &random) == 0 {
      root = try kernel.clone(by: shell, flags: .newPID, setTID: [.one, number])
    } else {
      root = try kernel.clone(by: shell, setTID: [number])
    }
    processes = [root]
    calls = [
      .clone(
        by: shell.index, child: root.index, flags: kernel.pids(of: root).last == .one ? .newPID : [], exitSignal: .child)
    ]
    switch Int.random(in: 0..<4, using: &random) {
    case 0: break
    case 1: try setpgid(by: root, target: root, groupOf: nil)
    default: try setsid(by: root)
    }
    // Most mistakes show in a small tree, which costs less.
    let most = Int.random(in: 0..<4, using: &random) == 0 ? limits.tasks : (limits.tasks + 2) / 3
    let wanted = Int.random(in: 1...most, using: &random)
    eventCount = wanted * limits.eventsPerTask
    let events = Event.allCases.filter {
      (limits.innerLevels > 0 || !$0.needsNamespaces) && (limits.unusualClones || !$0.isUnusual)
    }
    let total = events.reduce(0) { $0 + $1.weight }
    for number in 0..<eventCount where !skipped.contains(number) {
      random = SplitMix64(seed: seed &* 0x1_0000_01b3 &+ UInt64(number))
      var choice = Int.random(in: 0..<total, using: &random)
      let event = events.first { event in
        choice -= event.weight
        return choice < 0
      }
      guard let event, let actor = livingMember() else { continue }
      // What the kernel refuses does not happen.
      do { try happen(event, to: actor, wanted: wanted) } catch {}
      reapLostOrphans()
    }
  }

  /// The tree as a checkpoint would record it.
  public var tree: RecordedTree { kernel.record(root: root, outermost: kernel.rootNamespace) }

  /// Whether every namespace that tasks of the tree live in or enter came with its init, which may instead have
  /// become an orphan and left.
  public var isSelfContained: Bool {
    let tree = tree
    let outer = kernel.namespaces.indices.filter {
      kernel.isNested(kernel.activeNamespace(root.index), in: $0)
    }
    let known = outer.map { PIDNamespaceID(UInt32($0)) }
    let inits = tree.tasks.filter { $0.pids.last == .one }.map(\.pidNamespace)
    let dead = tree.namespaces.filter(\.isDead).map(\.id)
    let unborn = tree.namespaces.filter { !kernel.hasInit(KernelModel.Namespace(index: Int($0.id.rawValue))) }
    let complete = Set(known + inits + dead + unborn.map(\.id))
    return tree.namespaces.allSatisfy { complete.contains($0.id) }
  }

  // MARK: Events

  private mutating func happen(
    _ event: Event, to actor: KernelModel.Process, wanted: Int
  ) throws(KernelError) {
    switch event {
    case .fork, .forkSharing, .forkSibling, .forkSilently, .newNamespace, .daemonize, .doubleFork:
      guard processes.count < wanted * 2, kernel.size(below: root) < wanted else { return }
    default: break
    }
    switch event {
    case .fork: try fork(actor)
    case .forkSharing: try fork(actor, flags: randomShares())
    case .forkSibling:
      guard actor != root else { return }
      try fork(actor, flags: .parent, exitSignal: .none)
    case .forkSilently: try fork(actor, exitSignal: Bool.random(using: &random) ? .none : SignalNumber(10))
    case .thread:
      guard kernel.threadCount(of: actor) < 3 else { return }
      _ = try kernel.cloneThread(by: actor, setTID: freeTIDs(levels: kernel.pids(of: actor).count))
      calls.append(.thread(by: actor.index))
    case .setsid: try setsid(by: actor)
    case .leadGroup: try setpgid(by: actor, target: actor, groupOf: nil)
    case .joinGroup:
      guard let other = randomMember() else { return }
      try setpgid(by: actor, target: actor, groupOf: other)
    case .moveChild:
      guard let child = kernel.children(of: actor).randomElement(using: &random) else { return }
      let leads = Bool.random(using: &random)
      guard let other = leads ? child : randomMember() else { return }
      try setpgid(by: actor, target: child, groupOf: leads ? nil : other)
    case .exit: try end(actor)
    case .reap: try reapOne(of: actor)
    case .daemonize:
      let leader = try fork(actor)
      try setsid(by: leader)
      try fork(leader)
      try end(leader)
    case .doubleFork:
      let child = try fork(actor)
      try fork(child)
      try end(child)
    case .becomeSubreaper, .resignSubreaper:
      try kernel.setChildSubreaper(by: actor, event == .becomeSubreaper)
      calls.append(.setChildSubreaper(by: actor.index, event == .becomeSubreaper))
    case .exec:
      try kernel.exec(by: actor)
      calls.append(.exec(by: actor.index))
    case .unshareObjects: try unshare(by: actor, flags: Bool.random(using: &random) ? .files : .fs)
    case .newNamespace:
      guard mayNest(actor) else { return }
      try fork(actor, flags: .newPID)
    case .unshareNamespace:
      guard mayNest(actor) else { return }
      try unshare(by: actor, flags: .newPID)
      if Int.random(in: 0..<4, using: &random) > 0 { try fork(actor) }
    case .enterNamespace:
      let home = kernel.namespace(of: actor)
      let inits = processes.filter { kernel.isAlive($0) && kernel.isInit($0.index) && isMember($0) }
      guard let leader = inits.randomElement(using: &random), kernel.namespace(of: leader) != home else {
        return
      }
      try setns(by: actor, to: leader)
      if Int.random(in: 0..<4, using: &random) > 0 { try fork(actor) }
    case .comeBack: try setns(by: actor, to: actor)
    }
  }

  // MARK: Calls

  private mutating func setsid(by actor: KernelModel.Process) throws(KernelError) {
    try kernel.setsid(by: actor)
    calls.append(.setsid(by: actor.index))
  }

  private mutating func setpgid(
    by actor: KernelModel.Process, target: KernelModel.Process, groupOf other: KernelModel.Process?
  ) throws(KernelError) {
    let home = kernel.namespace(of: actor)
    let pid: PID = target == actor ? .invisible : kernel.pid(of: target, in: home)
    let group = other.map { kernel.group(of: $0, in: home) } ?? pid
    try kernel.setpgid(by: actor, pid: pid, group: group)
    calls.append(.setpgid(by: actor.index, target: target.index, groupOf: other?.index))
  }

  private mutating func unshare(by actor: KernelModel.Process, flags: CloneFlags) throws(KernelError) {
    try kernel.unshare(by: actor, flags: flags)
    calls.append(.unshare(by: actor.index, flags: flags))
  }

  private mutating func setns(by actor: KernelModel.Process, to other: KernelModel.Process) throws(KernelError) {
    try kernel.setns(by: actor, to: kernel.namespace(of: other))
    calls.append(.setns(by: actor.index, to: other.index))
  }

  private mutating func wait(by parent: KernelModel.Process, for child: KernelModel.Process) throws(KernelError) {
    _ = try kernel.wait(by: parent, for: child)
    calls.append(.wait(by: parent.index, for: child.index))
  }

  @discardableResult
  private mutating func fork(
    _ actor: KernelModel.Process, flags: CloneFlags = [], exitSignal: SignalNumber = .child
  ) throws(KernelError) -> KernelModel.Process {
    let isFirst = flags.contains(.newPID) || !kernel.hasInit(kernel.namespaceOfChildren(of: actor))
    var tids = freeTIDs(levels: kernel.levelsOfChildren(of: actor) + (flags.contains(.newPID) ? 1 : 0))
    if isFirst { tids[0] = .one }
    let child = try kernel.clone(by: actor, flags: flags, setTID: tids, exitSignal: exitSignal)
    if isFirst { namespaceCounts[tids.count - 1, default: 0] += 1 }
    processes.append(child)
    calls.append(.clone(by: actor.index, child: child.index, flags: flags, exitSignal: exitSignal))
    return child
  }

  /// The parent reaps half of the time; otherwise a zombie stays.
  private mutating func end(_ actor: KernelModel.Process) throws(KernelError) {
    guard actor != root else { return }
    let status = WaitStatus(rawValue: [0, 0x100, 9, 0x86].randomElement(using: &random) ?? 0)
    try kernel.exit(actor, status: status)
    calls.append(.exit(by: actor.index, status))
    if Int.random(in: 0..<4, using: &random) > 0 {
      try wait(by: kernel.parent(of: actor), for: actor)
    }
  }

  private mutating func reapOne(of actor: KernelModel.Process) throws(KernelError) {
    for child in kernel.children(of: actor) where !kernel.isAlive(child) {
      try wait(by: actor, for: child)
      return
    }
  }

  /// What leaves the tree is none of its business, but its PID is free again some day.
  private mutating func reapLostOrphans() {
    for child in kernel.children(of: kernel.initProcess) where !kernel.isAlive(child) {
      do { _ = try kernel.wait(by: kernel.initProcess, for: child) } catch {}
    }
  }

  // MARK: Choices

  private mutating func livingMember() -> KernelModel.Process? {
    for _ in 0..<8 {
      guard let process = processes.randomElement(using: &random) else { return nil }
      if kernel.isAlive(process), isMember(process) { return process }
    }
    return root
  }

  private func isMember(_ process: KernelModel.Process) -> Bool {
    var at = process
    while at != root {
      guard at != kernel.initProcess else { return false }
      at = kernel.parent(of: at)
    }
    return true
  }

  private func mayNest(_ actor: KernelModel.Process) -> Bool {
    let level = kernel.pids(of: actor).count
    return level <= limits.innerLevels && namespaceCounts[level, default: 0] < limits.namespacesPerLevel
  }

  private mutating func randomShares() -> CloneFlags {
    let choices: [CloneFlags] = [
      .files, .fs, [.files, .fs], .vm, [.vm, .sighand], [.vm, .files], [.vm, .sighand, .files, .fs],
    ]
    return choices.filter { limits.sharedMemory || !$0.contains(.vm) }.randomElement(using: &random) ?? .files
  }

  private mutating func randomMember() -> KernelModel.Process? {
    guard let other = processes.randomElement(using: &random), kernel.isRecorded(other) else { return nil }
    return other
  }

  private mutating func freeTIDs(levels: Int) -> [PID] {
    (0..<levels).map { _ in
      var number: Int32
      repeat { number = Int32.random(in: 2...300, using: &random) } while kernel.isTaken(number)
      return PID(number)
    }
  }
}

extension KernelModel {
  func threadCount(of process: Process) -> Int { processes[process.index].threads.count }
  func hasInit(_ namespace: Namespace) -> Bool { namespaces[namespace.index].initProcess != nil }
  func isRecorded(_ process: Process) -> Bool { processes[process.index].state != .reaped }
  func namespaceOfChildren(of process: Process) -> Namespace {
    Namespace(index: processes[process.index].namespaceForChildren)
  }

  /// How many processes a tree has.
  func size(below root: Process) -> Int {
    children(of: root).reduce(1) { $0 + size(below: $1) }
  }
}
