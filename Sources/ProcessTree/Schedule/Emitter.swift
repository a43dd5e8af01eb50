/// Turns a plan into steps.
///
/// Every node has a program: clones, with the sessions and groups that are there by then. The programs run as
/// far as they can, and one that needs a namespace or a group waits for it. When all are through come the
/// groups that were not there in time, then the orphans, threads, the helpers' ends, subreapers and the ends
/// of zombies.
struct Emitter {
  /// A part of a node's program.
  enum Operation {
    case clone(Int)
    case setsid
    case leadGroup
    case joinGroup
  }

  /// What a program waits for.
  enum Condition: Hashable {
    case namespace(Int)
    case group(Int)
  }

  let plan: Planner
  let options: ForkSchedule.Options
  var index: TreeIndex { plan.index }

  var steps: [ForkSchedule.Step] = []
  /// The last step of each node; its clone before it has done anything.
  var last: [Int]
  /// The node's group in the course of the schedule; `unrecorded` where the group is nobody's in the end.
  var group: [Int]
  /// The step that makes each group exist.
  var groupReady: [Int?]
  /// The step that puts each task into its final group.
  var joined: [Int?]
  /// What each node holds in the course of the schedule.
  var shares: [RecordedTask.Shares]
  /// The objects that this makes the nodes hold, kind by kind, to be compared with the recorded ones.
  private var objects: [[Int]]
  private var objectCount = 0
  /// Where each node's children are born in the course of the schedule.
  var namespaceForChildren: [Int]
  /// The step that makes each namespace's init.
  var initReady: [Int?]
  /// For each task, the exits whose orphans must pass it by on their way up.
  var passedBy: [Int: [Int]] = [:]
  /// The recorded subreapers that already are ones.
  var subreapers: Set<Int> = []
  /// The steps after which tasks have another namespace than their own for children, by namespace.
  var entered: [Int: [Int]] = [:]
  private var programs: [[Operation]]
  private var position: [Int]
  private var waiting: [Condition: [Int]] = [:]

  static let unrecorded = -1

  init(_ plan: Planner, options: ForkSchedule.Options) {
    self.plan = plan
    self.options = options
    last = Array(repeating: -1, count: plan.nodes.count)
    group = Array(repeating: Self.unrecorded, count: plan.nodes.count)
    groupReady = Array(repeating: nil, count: plan.index.groups.count)
    joined = Array(repeating: nil, count: plan.index.tree.tasks.count)
    shares = plan.nodes.map(\.birthShares)
    objects = Planner.sharedObjects.map { _ in Array(repeating: 0, count: plan.nodes.count) }
    namespaceForChildren = plan.nodes.map(\.namespace)
    initReady = Array(repeating: nil, count: plan.index.namespaces.count)
    programs = Array(repeating: [], count: plan.nodes.count)
    position = Array(repeating: 0, count: plan.nodes.count)
    // Most nodes take one step, their birth.
    steps.reserveCapacity(16 + plan.nodes.count + plan.index.tree.tasks.reduce(0) { $0 + $1.threads.count })
  }

  mutating func emit() throws(ScheduleError) {
    try runPrograms()
    try checkShares()
    try emitLateGroups()
    let nodes = plan.nodes
    let isBelowMaker = { (node: Planner.Node) in
      node.firstParent >= 0 && nodes[node.firstParent].reaper != nil
    }
    emitExits { $0.reaper == nil && isBelowMaker($0) }
    emitOrphans()
    emitThreads()
    emitNamespacesForChildren()
    emitExits { $0.reaper == nil && !isBelowMaker($0) }
    emitSubreapers()
    emitZombies()
  }

  /// Appends a step of a node after the node's previous one.
  mutating func add(_ action: ForkSchedule.Action, by node: Int, after others: [Int] = []) {
    var dependencies = others
    if node >= 0, last[node] >= 0 { dependencies.append(last[node]) }
    if dependencies.count > 1 { dependencies = Array(Set(dependencies)).sorted() }
    let actor = node < 0 ? ForkSchedule.Actor.tool : plan.nodes[node].actor
    if node >= 0 { last[node] = steps.count }
    steps.append(ForkSchedule.Step(executor: actor, action: action, dependencies: dependencies))
  }

  func named(_ pids: [PID]) -> [PID] { pids.dropFirst(options.outermostNamedLevel).reversed() }
}

// MARK: Programs

extension Emitter {
  private mutating func runPrograms() throws(ScheduleError) {
    for node in plan.order { programs[node] = program(of: node) }
    clone(plan.top, by: Planner.tool, group: TreeIndex.outside)
    var ready = [plan.top]
    var finished = 0
    var isFinished = Array(repeating: false, count: plan.nodes.count)
    while let node = ready.popLast() {
      let start = position[node]
      guard start < programs[node].count || !isFinished[node] else { continue }
      while position[node] < programs[node].count, findOperation(of: node) {
        try perform(programs[node][position[node]], by: node, &ready)
        position[node] += 1
      }
      if position[node] == programs[node].count {
        isFinished[node] = true
        finished += 1
      }
      // Children are served in the order of their creation.
      for operation in programs[node][start..<position[node]].reversed() {
        if case .clone(let child) = operation { ready.append(child) }
      }
    }
    guard finished == plan.nodes.count else {
      let stuck = plan.order.first { position[$0] < programs[$0].count } ?? index.root
      throw .stepsWaitForEachOther(TaskID(min(stuck, index.tree.tasks.count - 1)))
    }
  }

  /// Makes the node's next operation one that can be performed, if there is one; the last clones of a program
  /// may change places. Otherwise the node waits.
  private mutating func findOperation(of node: Int) -> Bool {
    let next = position[node]
    guard let missing = condition(for: programs[node][next], of: node) else { return true }
    waiting[missing, default: []].append(node)
    let rest = programs[node].count - plan.nodes[node].late.count
    guard next >= rest, plan.nodes[node].unshareAfter == nil else { return false }
    for place in programs[node].indices.dropFirst(next + 1) {
      if let missing = condition(for: programs[node][place], of: node) {
        waiting[missing, default: []].append(node)
      } else {
        programs[node].swapAt(next, place)
        return true
      }
    }
    return false
  }

  private func program(of node: Int) -> [Operation] {
    let planned = plan.nodes[node]
    func clones(_ children: [Int]) -> [Operation] { children.map { .clone($0) } }
    var program = clones(planned.early)
    if plan.leadsSession(node) { program.append(.setsid) }
    program += clones(planned.inheriting)
    program += clones(planned.groupLeaders)
    if !plan.leadsSession(node), !plan.isHelper(node) {
      if index.ledGroup[node] != nil {
        program.append(.leadGroup)
      } else if !planned.joinsLast {
        program.append(.joinGroup)
      }
    } else if !plan.leadsSession(node), let led = planned.carriedGroup, plan.groupLeaders[led] == node {
      program.append(.leadGroup)
    }
    if planned.joinedGroup != nil { program.append(.joinGroup) }
    return program + clones(planned.late)
  }

  private func isInit(_ node: Int) -> Bool { plan.inits[plan.nodes[node].namespace] == node }

  private func condition(for operation: Operation, of node: Int) -> Condition? {
    if case .joinGroup = operation, let wanted = plan.nodes[node].joinedGroup, groupReady[wanted] == nil {
      return .group(wanted)
    }
    guard case .clone(let child) = operation else { return nil }
    let home = plan.nodes[child].namespace
    if home != plan.nodes[node].namespace, !isInit(child), initReady[home] == nil { return .namespace(home) }
    if let needed = plan.nodes[child].neededGroup, group[node] != needed,
      needed != TreeIndex.outside, groupReady[needed] == nil
    {
      return .group(needed)
    }
    return nil
  }

  func groupOutOfReach(_ node: Int, _ group: Int) -> ScheduleError {
    let task = min(node, index.tree.tasks.count - 1)
    return .groupOutOfReach(TaskID(task), index.groups[group].numbers.first ?? .invisible)
  }

  private mutating func perform(
    _ operation: Operation, by node: Int, _ ready: inout [Int]
  ) throws(ScheduleError) {
    switch operation {
    case .clone(let child):
      if let needed = plan.nodes[child].neededGroup, !plan.nodes[child].isAdopted, group[node] != needed {
        guard plan.canBeMoved(node, to: needed) else { throw groupOutOfReach(child, needed) }
        put(node, into: needed, by: plan.nodes[node].firstParent)
      }
      clone(child, by: node, group: group[node])
      if isInit(child) { ready += waiting.removeValue(forKey: .namespace(plan.nodes[child].namespace)) ?? [] }
    case .setsid:
      add(.setsid, by: node)
      enter(plan.carriedGroup(of: node) ?? Self.unrecorded, node)
    case .leadGroup:
      add(.setpgid(target: plan.nodes[node].actor, group: .own), by: node)
      enter(plan.carriedGroup(of: node) ?? Self.unrecorded, node)
    case .joinGroup:
      let wanted = plan.nodes[node].joinedGroup ?? index.group[node]
      guard wanted != group[node], index.isVisible(wanted, from: plan.nodes[node].namespace),
        wanted == TreeIndex.outside || groupReady[wanted] != nil
      else { return }
      put(node, into: wanted, by: node)
    }
    if let led = plan.carriedGroup(of: node) { ready += waiting.removeValue(forKey: .group(led)) ?? [] }
  }

  private mutating func clone(_ child: Int, by creator: Int, group inherited: Int) {
    let node = plan.nodes[child]
    var flags: CloneFlags = []
    if creator >= 0 { flags = Self.sharing(shares[creator], node.birthShares) }
    if node.isSibling { flags.insert(.parent) }
    if isInit(child) { flags.insert(.newPID) }
    if creator >= 0 {
      bear(in: isInit(child) ? plan.nodes[creator].namespace : node.namespace, by: creator)
    }
    let signal = node.isSibling ? SignalNumber.none : node.firstSignal ?? node.exitSignal
    add(
      .clone(
        ForkSchedule.Clone(
          child: node.actor, flags: flags, setTID: named(node.pids), exitSignal: signal)),
      by: creator)
    last[child] = steps.count - 1
    for (kind, flag) in Self.shareFlags.enumerated() {
      objects[kind][child] = creator >= 0 && flags.contains(flag) ? objects[kind][creator] : newObject()
    }
    if isInit(child) { initReady[node.namespace] = steps.count - 1 }
    enter(inherited, child)
    if let needed = node.neededGroup, needed != inherited, node.isAdopted {
      put(child, into: needed, by: node.firstParent)
    }
    if creator >= 0, plan.nodes[creator].unshareAfter == child { letGo(creator) }
  }

  /// Makes sure that the node's next child is born in a namespace.
  mutating func bear(in namespace: Int, by node: Int) {
    guard namespaceForChildren[node] != namespace else { return }
    add(.setns(index.namespaces[namespace].id), by: node, after: initReady[namespace].map { [$0] } ?? [])
    namespaceForChildren[node] = namespace
  }

  private static func sharing(
    _ creator: RecordedTask.Shares, _ child: RecordedTask.Shares
  ) -> CloneFlags {
    var flags: CloneFlags = []
    if let files = child.files, files == creator.files { flags.insert(.files) }
    if let fs = child.fs, fs == creator.fs { flags.insert(.fs) }
    if let sighand = child.sighand, sighand == creator.sighand { flags.insert(.sighand) }
    if let mm = child.mm, mm == creator.mm { flags.insert(.vm) }
    return flags
  }

  /// In the order of `Planner.sharedObjects`.
  private static let shareFlags: [CloneFlags] = [.files, .fs, .sighand, .vm]

  private mutating func newObject() -> Int {
    objectCount += 1
    return objectCount
  }

  /// Checks that those tasks share objects that should, and no others.
  private func checkShares() throws(ScheduleError) {
    for (kind, object) in Planner.sharedObjects.enumerated() {
      var held: [ShareGroupID: Int] = [:]
      var owner: [Int: ShareGroupID?] = [:]
      for task in index.preorder where !index.isZombie(task) {
        let (id, made) = (index.tree.tasks[task].shares[keyPath: object], objects[kind][task])
        let isNew = owner.updateValue(id, forKey: made).map { $0 == id && id != nil } ?? true
        guard isNew, id.flatMap({ held.updateValue(made, forKey: $0) }) ?? made == made else {
          throw .sharingOutOfReach(TaskID(task))
        }
      }
    }
  }

  /// Parts with what the node held only to hand it on.
  private mutating func letGo(_ node: Int) {
    let (first, final) = (plan.nodes[node].birthShares, plan.nodes[node].shares)
    var flags: CloneFlags = []
    if plan.nodes[node].isReplaced {
      add(.exec, by: node)
    } else if first.files != final.files {
      flags.insert(.files)
    }
    if first.fs != final.fs { flags.insert(.fs) }
    if !flags.isEmpty { add(.unshare(flags), by: node) }
    for (kind, flag) in Self.shareFlags.enumerated() {
      if flags.contains(flag) || plan.nodes[node].isReplaced && flag != .fs {
        objects[kind][node] = newObject()
      }
    }
    shares[node] = final
  }

  /// `setpgid` of a node, by itself or by its parent.
  mutating func put(_ node: Int, into wanted: Int, by executor: Int, after others: [Int] = []) {
    var target = ForkSchedule.Group.external
    if wanted != TreeIndex.outside {
      let level = index.namespaces[plan.nodes[executor].namespace].level
      target = .id(index.groups[wanted].numbers[level])
    }
    let ready = groupReady[wanted].map { [$0] } ?? []
    add(
      .setpgid(target: plan.nodes[node].actor, group: target), by: executor,
      after: others + ready + [last[node]])
    last[node] = steps.count - 1
    enter(wanted, node)
  }

  private mutating func enter(_ entered: Int, _ node: Int) {
    group[node] = entered
    if entered > TreeIndex.outside, groupReady[entered] == nil { groupReady[entered] = last[node] }
    if !plan.isHelper(node) { joined[node] = index.group[node] == entered ? last[node] : nil }
  }
}
