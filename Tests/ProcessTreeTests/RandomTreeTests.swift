import Foundation
import Testing

@testable import ProcessTree

/// How many random trees a run makes; `PROCESS_TREE_COUNT` asks for another number.
let treeCount = ProcessInfo.processInfo.environment["PROCESS_TREE_COUNT"].flatMap(Int.init) ?? 24_000

enum Outcome {
  case exact
  case refused(ScheduleError)
  case wrong(String)
}

/// Schedules a tree and executes it on the model as a child of a fresh shell.
func outcome(
  of tree: RecordedTree, options: ForkSchedule.Options = .init(shellJob: true), shuffle seed: UInt64? = nil
) -> Outcome {
  do {
    let schedule = try ForkSchedule.compute(tree, options: options)
    var kernel = KernelModel()
    let shell = try kernel.clone(by: kernel.initProcess, setTID: [PID(20_000)])
    try kernel.setsid(by: shell)
    let tool = try kernel.clone(by: shell, setTID: [PID(20_001)])
    try kernel.setpgid(by: tool, pid: .invisible, group: .invisible)
    var run = ScheduleRun(schedule, on: kernel, tool: tool)
    try run.execute(order: seed.map { shuffledWaves(schedule, seed: $0) } ?? Array(schedule.steps.indices))
    guard let root = tree.tasks.first(where: { $0.parent == nil }),
      let process = run.process(of: .task(root.id))
    else { return .wrong("no root") }
    guard run.kernel.children(of: tool) == [process] else {
      return .wrong("the tool has other children than the root")
    }
    let result = run.kernel.record(root: process, outermost: run.kernel.rootNamespace).canonical()
    let wanted = tree.canonical()
    guard result != wanted else { return .exact }
    let differences = zip(wanted.tasks, result.tasks).filter { $0 != $1 }.map { "wanted \($0)\n   got \($1)" }
    return .wrong("wrong:\n\(differences.joined(separator: "\n"))\nschedule:\n\(schedule)")
  } catch let error as ScheduleError {
    return .refused(error)
  } catch {
    return .wrong("\(error)")
  }
}

/// What is wrong with a tree's schedule, or nil.
func problem(
  with tree: RecordedTree, options: ForkSchedule.Options = .init(shellJob: true), shuffle seed: UInt64? = nil
) -> String? {
  switch outcome(of: tree, options: options, shuffle: seed) {
  case .exact: nil
  case .refused(let error): "\(error) (\(error.kind))"
  case .wrong(let text): text
  }
}

extension ScheduleError {
  /// The name of the case.
  var kind: String { Mirror(reflecting: self).children.first?.label ?? "" }
}

/// An order that goes wave by wave, with the executors' programs of each wave in random order.
func shuffledWaves(_ schedule: ForkSchedule, seed: UInt64) -> [Int] {
  var random = SplitMix64(seed: seed)
  return schedule.waves.flatMap { wave in
    Dictionary(grouping: wave) { schedule.steps[$0].executor }
      .values.sorted { $0[0] < $1[0] }.shuffled(using: &random).flatMap(\.self)
  }
}

extension RecordedTree {
  /// The model gives each task objects of its own; a checkpoint says of what one task alone has that it is shared with nobody.
  var withoutLoneShares: RecordedTree {
    var tree = self
    let objects: [WritableKeyPath<RecordedTask.Shares, ShareGroupID?>] = [\.files, \.fs, \.sighand, \.mm]
    for object in objects {
      let users = Dictionary(grouping: tasks.indices) { tasks[$0].shares[keyPath: object] }
      for (_, places) in users where places.count == 1 { tree.tasks[places[0]].shares[keyPath: object] = nil }
    }
    return tree
  }
}

extension RandomHistory {
  /// The tree of a seed as the tests schedule it: every other one as a checkpoint has it.
  func tree(for seed: UInt64) -> RecordedTree { seed % 4 < 2 ? tree : tree.withoutLoneShares }
}

/// The shortest history found that still shows a problem, with the tree it ends in.
func shrunk(seed: UInt64, limits: RandomHistory.Limits, shuffle: UInt64?) throws -> String {
  func failure(skipping skipped: Set<Int>) -> (tree: RecordedTree, text: String)? {
    guard let history = try? RandomHistory(seed: seed, limits: limits, skipping: skipped),
      history.isSelfContained
    else { return nil }
    let tree = history.tree(for: seed)
    return problem(with: tree, shuffle: shuffle).map { (tree, $0) }
  }
  guard var worst = failure(skipping: []) else { return "seed \(seed): no problem" }
  func kind(_ text: String) -> Substring? { text.split(separator: "(").last }
  let count = try RandomHistory(seed: seed, limits: limits).eventCount
  var skipped: Set<Int> = []
  var size = max(count / 2, 1)
  while size > 0 {
    for start in stride(from: 0, to: count, by: size) {
      let more = skipped.union(start..<min(start + size, count))
      guard more.count > skipped.count, let found = failure(skipping: more),
        kind(found.text) == kind(worst.text) || found.text.hasPrefix("wrong")
      else { continue }
      (skipped, worst) = (more, found)
    }
    size /= 2
  }
  return "seed \(seed), \(count - skipped.count) events left:\n\(worst.tree)\n\(worst.text)"
}

/// What a run over many trees found.
struct Findings {
  var trees = 0
  /// Trees of which some tasks needed no plan.
  var followed = 0
  /// Seeds of trees that came back wrong, or whose schedule the model refused.
  var wrong: [UInt64] = []
  /// Seeds of trees that were refused, though they are possible.
  var refused: [UInt64] = []
}

/// Makes the trees of many seeds on every core, schedules them and executes the schedules.
func findings(_ seeds: Range<UInt64>, limits: RandomHistory.Limits) async throws -> Findings {
  try await withThrowingTaskGroup(of: Findings.self) { group in
    let workers = UInt64(ProcessInfo.processInfo.activeProcessorCount)
    for worker in 0..<workers {
      group.addTask {
        var found = Findings()
        for seed in seeds where seed % workers == worker {
          let history = try RandomHistory(seed: seed, limits: limits)
          guard history.isSelfContained else { continue }
          found.trees += 1
          let tree = history.tree(for: seed)
          if try ForkSchedule.following(tree, options: .init(shellJob: true)) != nil { found.followed += 1 }
          switch outcome(of: tree, shuffle: seed.isMultiple(of: 2) ? seed : nil) {
          case .exact: break
          case .wrong: found.wrong.append(seed)
          case .refused: found.refused.append(seed)
          }
        }
        return found
      }
    }
    return try await group.reduce(into: Findings()) {
      $0.trees += $1.trees
      $0.followed += $1.followed
      $0.wrong += $1.wrong
      $0.refused += $1.refused
    }
  }
}

private func check(_ limits: RandomHistory.Limits, count: Int) async throws {
  let found = try await findings(0..<UInt64(count), limits: limits)
  for seed in found.wrong.sorted().prefix(3) {
    Issue.record("\(try shrunk(seed: seed, limits: limits, shuffle: seed))")
  }
  // The planner knows of no history for a few trees that need several coincidences at once; it says so instead
  // of guessing. One in a thousand would be a rule forgotten.
  for seed in found.refused.sorted().prefix(found.refused.count * 1000 > found.trees ? 3 : 0) {
    Issue.record("\(try shrunk(seed: seed, limits: limits, shuffle: seed))")
  }
  #expect(found.wrong.isEmpty)
  #expect(found.refused.count * 1000 <= found.trees, "\(found.refused.count) of \(found.trees) refused")
  #expect(found.trees * 10 >= count * 9)
  #expect(found.followed * 10 >= found.trees, "some tasks followed in only \(found.followed) of \(found.trees) trees")
  print("\(found.trees) trees, \(found.followed) with tasks that need no plan, \(found.wrong.count) wrong, \(found.refused.count) refused")
}

@Test func treesOfOneNamespaceComeBackExactly() async throws {
  try await check(RandomHistory.Limits(), count: treeCount / 2)
}

@Test func treesOfNestedNamespacesComeBackExactly() async throws {
  var limits = RandomHistory.Limits()
  limits.innerLevels = 3
  try await check(limits, count: treeCount * 2 / 3)
}

/// What a dump relies on where it does not compute the schedule.
@Test func plainTreesHaveSchedules() throws {
  var plain = 0
  for seed in 0..<UInt64(treeCount / 8) {
    var limits = RandomHistory.Limits()
    (limits.tasks, limits.eventsPerTask) = (2 + Int(seed % 12), 1 + Int(seed % 3))
    var tree = try RandomHistory(seed: seed, limits: limits).tree
    // Many roots were born in a shell's session and group: as if they had left these for their own at once.
    guard let root = tree.tasks.first(where: { $0.parent == nil }) else { continue }
    for i in tree.tasks.indices where tree.tasks[i].session == root.session {
      if tree.tasks[i].group == root.group { tree.tasks[i].group = root.pids }
      tree.tasks[i].session = root.pids
    }
    tree = tree.withoutLoneShares
    guard tree.namespaces.count == 1, tree.tasks.allSatisfy({ task in task.isPlain(under: task.parent.map { tree[$0] }) }) else { continue }
    plain += 1
    if let problem = problem(with: tree, options: ForkSchedule.Options(shellJob: false)) { Issue.record("seed \(seed): \(problem)") }
  }
  #expect(plain * 20 > treeCount / 8, "only \(plain) were plain")
}

/// `PROCESS_TREE_SEED=17 PROCESS_TREE_LEVELS=3` shows one tree, its schedule and what is wrong with it.
@Test(.enabled(if: ProcessInfo.processInfo.environment["PROCESS_TREE_SEED"] != nil)) func oneSeed() throws {
  let environment = ProcessInfo.processInfo.environment
  var limits = RandomHistory.Limits()
  limits.innerLevels = environment["PROCESS_TREE_LEVELS"].flatMap(Int.init) ?? 0
  let seed = try #require(environment["PROCESS_TREE_SEED"].flatMap { UInt64($0) })
  let tree = try RandomHistory(seed: seed, limits: limits).tree(for: seed)
  print(
    tree, try ForkSchedule.compute(tree, options: .init(shellJob: true)).description(in: tree),
    separator: "\n")
  print(try shrunk(seed: seed, limits: limits, shuffle: seed))
}
