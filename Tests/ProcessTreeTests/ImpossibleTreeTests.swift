import Testing

@testable import ProcessTree

/// Trees that the kernel could not have shown, and what is said about them.
@Suite struct ImpossibleTreeTests {
  private func expect(_ tree: RecordedTree, _ error: ScheduleError, _ text: String) {
    #expect(throws: error) { try ForkSchedule.compute(tree) }
    #expect(error.description(in: tree).contains(text), "\(error.description(in: tree))")
  }

  @Test func samePIDTwice() {
    let tree = tree {
      $0.task(11, parent: 10)
      $0.task(12, parent: 10) { $0.threads = [[PID(11)]] }
    }
    expect(
      tree, .pidTakenTwice(PID(11), PIDNamespaceID(0), TaskID(1), TaskID(2)),
      "task 11 and task 12 both have PID 11")
  }

  @Test func samePIDTwiceAmongThoseWhoFollow() {
    let tree = tree {
      $0.task(11, parent: 10)
      $0.task(12, parent: 10)
      $0.task(11, parent: 10)
    }
    expect(tree, .pidTakenTwice(PID(11), PIDNamespaceID(0), TaskID(1), TaskID(3)), "PID 11")
  }

  @Test func groupInTwoSessions() {
    let tree = tree { $0.task(11, parent: 10, session: [11], group: [10]) }
    #expect(throws: ScheduleError.self) { try ForkSchedule.compute(tree) }
  }

  @Test func sessionLeaderThatMovedToAnotherGroup() {
    let tree = tree {
      $0.task(11, parent: 10, session: [11], group: [12])
      $0.task(12, parent: 11, session: [11], group: [12])
    }
    expect(tree, .sessionLeaderInOtherGroup(TaskID(1)), "setpgid(2) refuses")
  }

  @Test func leaderOutsideItsSession() {
    let tree = tree {
      $0.task(11, parent: 10)
      $0.task(12, parent: 10, session: [11])
    }
    expect(tree, .leaderLeftItsSession(TaskID(1)), "cannot leave")
  }

  @Test func childInASessionThatItsParentNeverSaw() {
    // 12 was born in session 11, so what it forks is in session 11 too, or in a later one.
    let tree = tree {
      $0.task(11, parent: 10, session: [11])
      $0.task(12, parent: 11)
      $0.task(13, parent: 12, session: [10])
    }
    expect(tree, .sessionOutOfReach(TaskID(2), PID(10)), "inherited at birth")
  }

  @Test func zombieWithAChild() {
    let tree = tree {
      $0.task(11, parent: 10) { $0.state = .zombie(WaitStatus(exitCode: 0)) }
      $0.task(12, parent: 11)
    }
    expect(tree, .zombieHasChild(TaskID(1), child: TaskID(2)), "gives a dead task's children away")
  }

  @Test func orphanWithAnotherExitSignal() {
    let tree = tree {
      $0.task(11, parent: 10)
      $0.task(12, parent: 11, session: [12])
      $0.task(13, parent: 10, session: [12]) { $0.exitSignal = SignalNumber(10) }
    }
    expect(tree, .orphanWithExitSignal(TaskID(3), SignalNumber(10)), "get SIGCHLD")
  }

  @Test func namespaceWithoutInit() {
    let tree = tree {
      $0.namespace(1)
      $0.task(20, 5, parent: 10, session: [20, 5], in: 1)
    }
    expect(tree, .namespaceWithoutInit(PIDNamespaceID(1), task: TaskID(1)), "whose PID 1 is not in the tree")
  }

  @Test func childOutsideItsParentsNamespace() {
    let tree = tree {
      $0.namespace(1)
      $0.task(20, 1, parent: 10, session: [20, 1], in: 1)
      $0.task(21, parent: 20, session: [21])
    }
    expect(tree, .namespaceAboveParent(TaskID(2)), "born there or deeper")
  }

  @Test func initBelowItself() {
    let tree = tree {
      $0.namespace(1)
      $0.task(20, 5, parent: 10, session: [20, 5], in: 1)
      $0.task(21, 1, parent: 20, session: [21, 1], in: 1)
    }
    expect(tree, .initInsideItsNamespace(TaskID(2)), "creator lives outside")
  }

  @Test func tasksThatOutliveTheirInit() {
    let tree = tree {
      $0.namespace(1)
      $0.task(20, 1, parent: 10, session: [20, 1], in: 1) { $0.state = .zombie(WaitStatus(exitCode: 0)) }
      $0.task(21, 2, parent: 10, session: [21, 2], in: 1)
    }
    expect(tree, .tasksOutliveInit(TaskID(1)), "kills them first")
  }

  @Test func handlersWithoutMemory() {
    let tree = tree {
      $0.task(11, parent: 10) { $0.shares = .init(sighand: ShareGroupID(1), mm: ShareGroupID(1)) }
      $0.task(12, parent: 11) { $0.shares = .init(sighand: ShareGroupID(1), mm: ShareGroupID(2)) }
    }
    expect(tree, .handlersSharedWithoutMemory(TaskID(2)), "CLONE_SIGHAND needs CLONE_VM")
  }

  @Test func outsideSessionNamesTheOption() {
    var builder = TreeBuilder()
    builder.task(20, session: [5], group: [5])
    expect(builder.tree, .sessionLedFromOutside(TaskID(0), PID(5)), "--shell-job")
  }

  @Test func parentsInACircle() {
    let tree = tree {
      $0.task(11, parent: 10)
      $0.task(12, parent: 11)
      $0.tree.tasks[1].parent = TaskID(2)
    }
    expect(tree, .parentCycle(TaskID(1)), "own ancestor")
  }
}

/// A schedule never makes another tree than the recorded one: a changed tree comes back as changed, or is refused.
@Test(arguments: [0, 3]) func changedTreesComeBackAsChangedOrAreRefused(levels: Int) throws {
  var limits = RandomHistory.Limits()
  limits.tasks = 30
  limits.innerLevels = levels
  var refused = 0
  let count = UInt64(treeCount / 12)
  for seed in 0..<count {
    let history = try RandomHistory(seed: seed, limits: limits)
    guard history.isSelfContained else { continue }
    var random = SplitMix64(seed: ~seed)
    let tree = history.tree.mutated(using: &random)
    switch outcome(of: tree) {
    case .exact: break
    case .refused(let error):
      refused += 1
      #expect(error.description(in: tree) != "the tree cannot be made", "seed \(seed)")
    case .wrong(let text): Issue.record("seed \(seed):\n\(tree)\n\(text)")
    }
  }
  #expect(refused > count / 4)
}
