extension ForkSchedule {
  /// Works out the steps that make a recorded tree again.
  ///
  /// A pure function that takes O(n log n) time for n tasks, apart from deep chains of orphans.
  ///
  /// - Throws: `ScheduleError` when no sequence of system calls can end in such a tree, or when the options
  ///   do not allow it.
  public static func compute(
    _ tree: RecordedTree, options: Options = Options()
  ) throws(ScheduleError) -> ForkSchedule {
    let plan = try Planner(TreeIndex(tree, options: options))
    var emitter = Emitter(plan, options: options)
    emitter.emit()
    return ForkSchedule(
      steps: emitter.steps,
      helpers: plan.helpers,
      waves: waves(of: emitter.steps),
      reservedPIDs: reservedNumbers(plan.index),
      namespaceInits: namespaceInits(plan.index))
  }

  /// Puts each step into the first wave in which everything it waits for is done, or comes earlier in the
  /// same executor's program.
  private static func waves(of steps: [Step]) -> [[Int]] {
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
    var numbers = Array(repeating: Set<PID>(), count: index.namespaces.count)
    func reserve(_ pids: [PID], in namespace: Int) {
      var at = namespace
      for pid in pids.reversed() {
        numbers[at].insert(pid)
        at = index.namespaces[at].parent
      }
    }
    for task in index.tree.tasks {
      for pids in [task.pids, task.group, task.session] + task.threads {
        reserve(pids, in: index.namespace[task.id.index])
      }
    }
    var reserved: [PIDNamespaceID: Set<PID>] = [:]
    for (place, namespace) in index.namespaces.enumerated() { reserved[namespace.id] = numbers[place] }
    return reserved
  }

  private static func namespaceInits(_ index: TreeIndex) -> [PIDNamespaceID: Actor] {
    var inits: [PIDNamespaceID: Actor] = [:]
    for namespace in index.namespaces {
      if let leader = namespace.initTask { inits[namespace.id] = .task(TaskID(leader)) }
    }
    return inits
  }
}
