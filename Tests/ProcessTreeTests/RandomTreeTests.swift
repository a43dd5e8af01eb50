import Foundation
import Testing

@testable import ProcessTree

/// How many random trees a run makes; `PROCESS_TREE_COUNT` asks for another number.
let treeCount = ProcessInfo.processInfo.environment["PROCESS_TREE_COUNT"].flatMap(Int.init) ?? 20_000

/// Schedules a tree, executes it on the model as a child of a fresh shell, and says what is wrong, if anything.
func problem(
  with tree: RecordedTree, options: ForkSchedule.Options = .init(shellJob: true), shuffle seed: UInt64? = nil
) -> String? {
  do {
    let schedule = try ForkSchedule.compute(tree, options: options)
    var kernel = KernelModel()
    let shell = try kernel.clone(by: kernel.initProcess, setTID: [PID(20_000)])
    try kernel.setsid(by: shell)
    let tool = try kernel.clone(by: shell, setTID: [PID(20_001)])
    try kernel.setpgid(by: tool, pid: .invisible, group: .invisible)
    var run = ScheduleRun(schedule, on: kernel, tool: tool)
    if let seed {
      try run.execute(order: shuffledWaves(schedule, seed: seed))
    } else {
      try run.execute(order: schedule.steps.indices)
    }
    guard let root = tree.tasks.first(where: { $0.parent == nil }),
      let process = run.process(of: .task(root.id))
    else { return "no root" }
    guard run.kernel.children(of: tool) == [process] else {
      return "the tool has other children than the root"
    }
    let result = run.kernel.record(root: process, outermost: run.kernel.rootNamespace).canonical()
    let wanted = tree.canonical()
    return result == wanted ? nil : "wanted:\n\(wanted)\ngot:\n\(result)\nschedule:\n\(schedule)"
  } catch {
    return "\(error)"
  }
}

/// An order that goes wave by wave, with the executors' programs of each wave in random order.
func shuffledWaves(_ schedule: ForkSchedule, seed: UInt64) -> [Int] {
  var random = SplitMix64(seed: seed)
  return schedule.waves.flatMap { wave in
    Dictionary(grouping: wave) { schedule.steps[$0].executor }
      .values.sorted { $0[0] < $1[0] }.shuffled(using: &random).flatMap(\.self)
  }
}

/// The shortest history found that still shows a problem, with the tree it ends in.
func shrunk(seed: UInt64, limits: RandomHistory.Limits, shuffle: UInt64?) throws -> String {
  func failure(skipping skipped: Set<Int>) -> (tree: RecordedTree, text: String)? {
    guard let history = try? RandomHistory(seed: seed, limits: limits, skipping: skipped),
      history.isSelfContained
    else { return nil }
    let tree = history.tree
    return problem(with: tree, shuffle: shuffle).map { (tree, $0) }
  }
  guard var worst = failure(skipping: []) else { return "seed \(seed): no problem" }
  let kind = worst.text.prefix { $0 != "(" && $0 != "\n" }
  let count = try RandomHistory(seed: seed, limits: limits).eventCount
  var skipped: Set<Int> = []
  var size = max(count / 2, 1)
  while size > 0 {
    for start in stride(from: 0, to: count, by: size) {
      let more = skipped.union(start..<min(start + size, count))
      guard more.count > skipped.count, let found = failure(skipping: more), found.text.hasPrefix(kind)
      else { continue }
      (skipped, worst) = (more, found)
    }
    size /= 2
  }
  return "seed \(seed), \(count - skipped.count) events left:\n\(worst.tree)\n\(worst.text)"
}

/// Makes the trees of many seeds on every core, and returns those that do not come back exactly.
func failingSeeds(_ seeds: Range<UInt64>, limits: RandomHistory.Limits) async throws -> [UInt64] {
  try await withThrowingTaskGroup(of: [UInt64].self) { group in
    let workers = UInt64(ProcessInfo.processInfo.activeProcessorCount)
    for worker in 0..<workers {
      group.addTask {
        var failing: [UInt64] = []
        for seed in seeds where seed % workers == worker {
          let history = try RandomHistory(seed: seed, limits: limits)
          guard history.isSelfContained else { continue }
          let tree = history.tree
          if problem(with: tree, shuffle: seed) != nil { failing.append(seed) }
        }
        return failing
      }
    }
    return try await group.reduce(into: []) { $0 += $1 }.sorted()
  }
}

@Test func treesOfOneNamespaceComeBackExactly() async throws {
  let limits = RandomHistory.Limits()
  let failing = try await failingSeeds(0..<UInt64(treeCount), limits: limits)
  #expect(failing.isEmpty, "\(failing.count) of \(treeCount) trees")
  printReasons(failing, limits)
  for seed in failing.prefix(0) {
    Issue.record("\(try shrunk(seed: seed, limits: limits, shuffle: seed))")
  }
}

@Test func treesOfNestedNamespacesComeBackExactly() async throws {
  var limits = RandomHistory.Limits()
  limits.innerLevels = 3
  let failing = try await failingSeeds(0..<UInt64(treeCount), limits: limits)
  #expect(failing.isEmpty, "\(failing.count) of \(treeCount) trees")
  printReasons(failing, limits)
  for seed in failing.prefix(0) {
    Issue.record("\(try shrunk(seed: seed, limits: limits, shuffle: seed))")
  }
}

func printReasons(_ seeds: [UInt64], _ limits: RandomHistory.Limits) {
  var counts: [String: (Int, UInt64, Int)] = [:]
  for seed in seeds {
    guard let tree = try? RandomHistory(seed: seed, limits: limits).tree, let text = problem(with: tree, shuffle: seed) else { continue }
    let key = String(text.filter { !$0.isNumber }.replacing("helper", with: "task").prefix(50))
    let old = counts[key] ?? (0, 0, .max)
    counts[key] = (old.0 + 1, tree.tasks.count < old.2 ? seed : old.1, min(old.2, tree.tasks.count))
  }
  for (key, count) in counts.sorted(by: { $0.value.0 > $1.value.0 }) {
    print("REASON", count, key)
    print(try! shrunk(seed: count.1, limits: limits, shuffle: count.1))
  }
}

@Test(.enabled(if: ProcessInfo.processInfo.environment["PROCESS_TREE_SEED"] != nil)) func seed() throws {
  var limits = RandomHistory.Limits()
  limits.innerLevels = 3
  let seed = UInt64(ProcessInfo.processInfo.environment["PROCESS_TREE_SEED"] ?? "") ?? 0
  print(try shrunk(seed: seed, limits: limits, shuffle: seed))
  let history = try RandomHistory(seed: seed, limits: limits)
  print(history.isSelfContained, history.tree, problem(with: history.tree)?.prefix(2000) ?? "fine")
}
