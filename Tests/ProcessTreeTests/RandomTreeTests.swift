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

@Test func randomTreesOfOneNamespaceComeBackExactly() async throws {
  var limits = RandomHistory.Limits()
  limits.unusualClones = false
  var failures: [String: (Int, UInt64, Int)] = [:]
  for seed in 0..<UInt64(treeCount) {
    let tree = try RandomHistory(seed: seed, limits: limits).tree
    if let text = problem(with: tree, shuffle: seed % 2 == 0 ? nil : seed) {
      let key = String(text.prefix(40))
      let old = failures[key] ?? (0, seed, .max)
      failures[key] = (old.0 + 1, tree.tasks.count < old.2 ? seed : old.1, min(old.2, tree.tasks.count))
    }
  }
  for (key, value) in failures.sorted(by: { $0.value.0 > $1.value.0 }).prefix(10) {
    print(value, key)
    let tree = try RandomHistory(seed: value.1, limits: limits).tree
    if value.2 < 12 {
      print(tree)
      print(problem(with: tree, shuffle: value.1 % 2 == 0 ? nil : value.1) ?? "")
    }
  }
  #expect(failures.isEmpty)
}
