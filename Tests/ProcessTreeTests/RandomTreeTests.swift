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
  func problem(skipping skipped: Set<Int>) -> (RecordedTree, String)? {
    guard let tree = try? RandomHistory(seed: seed, limits: limits, skipping: skipped).tree else {
      return nil
    }
    return ProcessTreeTests.problem(with: tree, shuffle: shuffle).map { (tree, $0) }
  }
  let count = try RandomHistory(seed: seed, limits: limits).eventCount
  var skipped: Set<Int> = []
  var size = max(count / 2, 1)
  while size > 0 {
    for start in stride(from: 0, to: count, by: size) {
      let more = skipped.union(start..<min(start + size, count))
      if more.count > skipped.count, problem(skipping: more) != nil { skipped = more }
    }
    size /= 2
  }
  guard let (tree, text) = problem(skipping: skipped) else { return "seed \(seed): no problem" }
  return "seed \(seed), \(count - skipped.count) events left:\n\(tree)\n\(text)"
}

/// Makes the trees of many seeds on every core, and returns those that do not come back exactly.
func failingSeeds(_ seeds: Range<UInt64>, limits: RandomHistory.Limits) async throws -> [UInt64] {
  try await withThrowingTaskGroup(of: [UInt64].self) { group in
    let workers = UInt64(ProcessInfo.processInfo.activeProcessorCount)
    for worker in 0..<workers {
      group.addTask {
        var failing: [UInt64] = []
        for seed in seeds where seed % workers == worker {
          let tree = try RandomHistory(seed: seed, limits: limits).tree
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
  for seed in failing.prefix(3) {
    Issue.record("\(try shrunk(seed: seed, limits: limits, shuffle: seed))")
  }
}
