/// Turns a plan into steps.
///
/// Everything that a step waits for has a smaller place in the plan's preorder or belongs to a later part
/// of the schedule, so the dependencies never form a circle: first the clones with the sessions and groups
/// that are there by then, then the groups that have to wait for their leaders, then the helpers' ends, then
/// subreapers, threads and the ends of zombies.
struct Emitter {
  let plan: Planner
  let options: ForkSchedule.Options
  var index: TreeIndex { plan.index }

  var steps: [ForkSchedule.Step] = []
  /// The last step of each node; its clone before it has done anything.
  var last: [Int]
  /// The node's group in the course of the schedule; `unrecorded` where the group is nobody's in the end.
  var group: [Int]
  /// The group a node is in while it makes its early children.
  var birthGroup: [Int]
  /// The step that makes each group exist.
  var groupReady: [Int?]
  /// The step that puts each task into its final group.
  var joined: [Int?]
  /// For each task, the exits whose orphans must pass it by on their way up.
  var passedBy: [Int: [Int]] = [:]
  /// The recorded subreapers that already are ones.
  var subreapers: Set<Int> = []

  /// What each node holds in the course of the schedule.
  var shares: [RecordedTask.Shares]

  static let unrecorded = -1

  init(_ plan: Planner, options: ForkSchedule.Options) {
    self.plan = plan
    self.options = options
    last = Array(repeating: -1, count: plan.nodes.count)
    group = Array(repeating: Self.unrecorded, count: plan.nodes.count)
    birthGroup = group
    shares = plan.nodes.map(\.birthShares)
    groupReady = Array(repeating: nil, count: plan.index.groups.count)
    joined = Array(repeating: nil, count: plan.index.tree.tasks.count)
  }

  mutating func emit() {
    emitRoot()
    for node in plan.order { emitBirthProgram(of: node) }
    emitLateGroups()
    emitOrphans()
    emitHelperExits()
    emitLastSteps()
  }

  /// Appends a step of a node after the node's previous one.
  mutating func add(_ action: ForkSchedule.Action, by node: Int, after others: [Int] = []) {
    var dependencies = others
    if node >= 0, last[node] >= 0 { dependencies.append(last[node]) }
    dependencies = Array(Set(dependencies)).sorted()
    let actor = node < 0 ? ForkSchedule.Actor.tool : plan.nodes[node].actor
    if node >= 0 { last[node] = steps.count }
    steps.append(ForkSchedule.Step(executor: actor, action: action, dependencies: dependencies))
  }

  func named(_ pids: [PID]) -> [PID] { pids.dropFirst(options.outermostNamedLevel).reversed() }
}

// MARK: Births

extension Emitter {
  private mutating func emitRoot() {
    birthGroup[index.root] = TreeIndex.outside
    clone(index.root, by: Planner.tool, group: TreeIndex.outside)
  }

  private mutating func emitBirthProgram(of node: Int) {
    for child in plan.nodes[node].early { clone(child, by: node, group: birthGroup[node]) }
    group[node] = birthGroup[node]
    if leadsSession(node) {
      add(.setsid, by: node)
      enterGroup(ledGroup(of: node), node)
    }
    for helper in plan.nodes[node].groupLeaders { clone(helper, by: node, group: group[node]) }
    for helper in plan.nodes[node].groupLeaders { lead(helper) }
    if !leadsSession(node) {
      if node < index.tree.tasks.count, index.ledGroup[node] != nil { lead(node) }
      joinIfReady(node)
    }
    for child in plan.nodes[node].late { clone(child, by: node, group: group[node]) }
  }

  private mutating func clone(_ child: Int, by creator: Int, group: Int) {
    let node = plan.nodes[child]
    var flags: CloneFlags = []
    if creator >= 0 { flags = Self.sharing(shares[creator], node.birthShares) }
    if node.isSibling { flags.insert(.parent) }
    if node.pids.last == .one { flags.insert(.newPID) }
    add(
      .clone(
        ForkSchedule.Clone(
          child: node.actor, flags: flags, setTID: named(node.pids),
          exitSignal: node.isSibling ? .none : node.firstSignal ?? node.exitSignal)),
      by: creator)
    last[child] = steps.count - 1
    birthGroup[child] = group
    if child < index.tree.tasks.count, index.group[child] == group, index.ledGroup[child] == nil {
      joined[child] = steps.count - 1
    }
    if creator >= 0, plan.nodes[creator].unshareAfter == child { letGo(creator) }
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
    shares[node] = final
  }

  private static func sharing(_ creator: RecordedTask.Shares, _ child: RecordedTask.Shares) -> CloneFlags {
    var flags: CloneFlags = []
    if let files = child.files, files == creator.files { flags.insert(.files) }
    if let fs = child.fs, fs == creator.fs { flags.insert(.fs) }
    if let sighand = child.sighand, sighand == creator.sighand { flags.insert(.sighand) }
    if let mm = child.mm, mm == creator.mm { flags.insert(.vm) }
    return flags
  }

  private mutating func lead(_ node: Int) {
    add(.setpgid(target: plan.nodes[node].actor, group: .own), by: node)
    enterGroup(ledGroup(of: node), node)
  }

  /// Joins now what exists by now: a group whose leader comes earlier in the plan.
  private mutating func joinIfReady(_ node: Int) {
    guard node < index.tree.tasks.count, index.group[node] != group[node] else { return }
    let wanted = index.group[node]
    // A leader that leaves its own group waits until somebody has followed it there.
    guard index.ledGroup[node] == nil else { return }
    if wanted == TreeIndex.outside || groupReady[wanted] != nil { join(node) }
  }

  mutating func join(_ node: Int, after others: [Int] = []) {
    let wanted = index.group[node]
    let target: ForkSchedule.Group =
      wanted == TreeIndex.outside
      ? .external : .id(index.groups[wanted].numbers[index.namespaces[plan.nodes[node].namespace].level])
    add(
      .setpgid(target: plan.nodes[node].actor, group: target), by: node,
      after: others + (groupReady[wanted].map { [$0] } ?? []))
    enterGroup(wanted, node)
  }

  private mutating func enterGroup(_ entered: Int, _ node: Int) {
    group[node] = entered
    if entered != Self.unrecorded, groupReady[entered] == nil { groupReady[entered] = last[node] }
    if node < index.tree.tasks.count, index.group[node] == entered { joined[node] = last[node] }
  }

  private func leadsSession(_ node: Int) -> Bool {
    plan.sessionLeaders[plan.nodes[node].session] == node
  }

  /// The recorded group that has the node's PID as its ID.
  private func ledGroup(of node: Int) -> Int {
    if node < index.tree.tasks.count { return index.ledGroup[node] ?? Self.unrecorded }
    return plan.nodes[node].carriedGroup ?? Self.unrecorded
  }
}
