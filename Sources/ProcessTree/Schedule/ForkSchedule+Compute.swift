extension ForkSchedule {
  /// Works out the steps that make a recorded tree again.
  ///
  /// A pure function that takes O(n log n) time for n tasks, apart from deep chains of orphans and from many
  /// siblings that share objects in pairs.
  ///
  /// - Throws: `ScheduleError` when no sequence of system calls can end in such a tree, or when the options
  ///   do not allow it. A few trees that need several rare coincidences at once (one in ten thousand of the random
  ///   ones with nested namespaces) are refused although they are possible; none is made wrong.
  public static func compute(
    _ tree: RecordedTree, options: Options = Options()
  ) throws(ScheduleError) -> ForkSchedule {
    if let schedule = try following(tree, options: options) { return schedule }
    return try planned(TreeIndex(tree, options: options), options: options)
  }

  static func planned(_ index: TreeIndex, options: Options) throws(ScheduleError) -> ForkSchedule {
    let plan = try Planner(index, options: options)
    var emitter = Emitter(plan, options: options)
    try emitter.emit()
    return ForkSchedule(
      steps: emitter.steps,
      helpers: plan.helpers,
      waves: waves(of: emitter.steps),
      reservedPIDs: reservedNumbers(plan.index),
      namespaceInits: namespaceInits(plan))
  }

  /// Puts each step into the first wave in which everything it waits for is done, or comes earlier in the
  /// same executor's program.
  static func waves(of steps: [Step]) -> [[Int]] {
    var waveOf: [Int] = []
    waveOf.reserveCapacity(steps.count)
    var waves: [[Int]] = []
    for (place, step) in steps.enumerated() {
      var wave = 0
      for other in step.dependencies {
        wave = max(wave, waveOf[other] + (steps[other].executor == step.executor ? 0 : 1))
      }
      waveOf.append(wave)
      if wave == waves.count { waves.append([]) }
      waves[wave].append(place)
    }
    return waves
  }

  private static func reservedNumbers(_ index: TreeIndex) -> [PIDNamespaceID: Set<PID>] {
    Dictionary(
      zip(index.namespaces.map(\.id), index.usedNumbers()), uniquingKeysWith: { first, _ in first })
  }

  private static func namespaceInits(_ plan: Planner) -> [PIDNamespaceID: Actor] {
    var inits: [PIDNamespaceID: Actor] = [:]
    for (namespace, leader) in zip(plan.index.namespaces, plan.inits) {
      if let leader { inits[namespace.id] = plan.nodes[leader].actor }
    }
    return inits
  }
}
