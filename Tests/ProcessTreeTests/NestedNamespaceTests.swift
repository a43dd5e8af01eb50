import Testing

@testable import ProcessTree

@Suite struct NestedNamespaceTests {
  /// 10 has a container: 20/1 with a child 21/2.
  private func container(_ build: (inout TreeBuilder) -> Void = { _ in }) -> RecordedTree {
    tree {
      $0.namespace(1)
      $0.task(20, 1, parent: 10, session: [20, 1], in: 1)
      $0.task(21, 2, parent: 20, session: [20, 1], in: 1)
      build(&$0)
    }
  }

  private func lines(_ tree: RecordedTree, _ options: ForkSchedule.Options = .init()) throws -> [String] {
    try ForkSchedule.compute(tree, options: options).lines(of: tree)
  }

  @Test func initIsBornWithItsNamespace() throws {
    let tree = container()
    #expect(
      try lines(tree) == [
        "tool: clone 10", "10: setsid", "10: clone 20/1 with NEWPID", "20/1: setsid", "20/1: clone 21/2",
      ])
    guard case .clone(let clone) = try ForkSchedule.compute(tree).steps[2].action else {
      Issue.record("no clone")
      return
    }
    #expect(clone.setTID == [PID(1), PID(20)], "innermost first")
    #expect(problem(with: tree, options: .init()) == nil)
  }

  @Test func taskThatEnteredIsMadeFromOutside() throws {
    let tree = container { $0.task(22, 3, parent: 10, session: [22, 3], in: 1) }
    #expect(try lines(tree).contains("10: setns, children are born in pid:[1]"))
    // Who follows its parent is born when that has its own namespace for children again.
    let after = try lines(tree).drop { $0 != "10: setns, children are born in pid:[0]" }
    #expect(!after.isEmpty && after.dropFirst().allSatisfy { $0.contains(": clone ") })
    #expect(problem(with: tree, options: .init()) == nil)
  }

  @Test func childOfOneWhoEnteredFallsToInit() throws {
    // 22 is led from outside: somebody of session 10 entered, made it and exited.
    let tree = container { $0.task(22, 3, parent: 20, session: [10, 0], in: 1) }
    #expect(problem(with: tree, options: .init()) == nil)
  }

  @Test func groupFromOutsideIsInheritedBeforeItIsLeft() throws {
    let tree = tree {
      $0.namespace(1)
      $0.task(20, 1, parent: 10, session: [10, 0], group: [20, 1], in: 1)
      $0.task(21, 2, parent: 20, session: [10, 0], group: [10, 0], in: 1)
    }
    #expect(
      try lines(tree) == [
        "tool: clone 10", "10: setsid", "10: clone 20/1 with NEWPID", "20/1: clone 21/2",
        "20/1: setpgid, leads a group",
      ])
    #expect(problem(with: tree, options: .init()) == nil)
  }

  @Test func parentOutsidePutsAChildIntoAGroupItCannotSee() throws {
    let tree = tree {
      $0.namespace(1)
      $0.task(11, parent: 10, session: [10], group: [11])
      $0.task(20, 1, parent: 10, session: [10, 0], group: [11, 0], in: 1)
    }
    #expect(try lines(tree).last == "10: setpgid, joins group 11 for 20/1")
    #expect(problem(with: tree, options: .init()) == nil)
  }

  @Test func namespaceForChildrenIsSetLast() throws {
    let tree = container { $0.tree.tasks[0].pidNamespaceForChildren = PIDNamespaceID(1) }
    #expect(try lines(tree).last { $0.hasPrefix("10: ") } == "10: setns, children are born in pid:[1]")
    #expect(problem(with: tree, options: .init()) == nil)
  }

  @Test func namespaceWithoutTasksIsUnshared() throws {
    let tree = tree {
      $0.namespace(1)
      $0.tree.tasks[0].pidNamespaceForChildren = PIDNamespaceID(1)
      $0.task(11, parent: 10)
    }
    #expect(try lines(tree).last == "10: unshare NEWPID")
    #expect(problem(with: tree, options: .init()) == nil)
  }

  @Test func deadNamespaceIsMadeAndLeftDead() throws {
    let tree = tree {
      $0.namespace(1, isDead: true)
      $0.tree.tasks[0].pidNamespaceForChildren = PIDNamespaceID(1)
    }
    #expect(try ForkSchedule.compute(tree).helpers.map(\.purpose) == [.deadNamespaceInit])
    #expect(problem(with: tree, options: .init()) == nil)
  }

  /// The root is a container's init whose outer PIDs are known.
  private var rootInit: RecordedTree {
    var builder = TreeBuilder()
    builder.namespace(1)
    builder.namespace(2, in: 1)
    builder.task(31496, 42, 1, session: [31496, 42, 1], in: 2)
    builder.task(31500, 50, 7, parent: 31496, in: 2)
    return builder.tree
  }

  @Test func outerLevelsNeedNotBeNamed() throws {
    let schedule = try ForkSchedule.compute(rootInit, options: .init(outermostNamedLevel: 1))
    let named = schedule.steps.compactMap { step -> [PID]? in
      if case .clone(let clone) = step.action { return clone.setTID }
      return nil
    }
    #expect(named == [[PID(1), PID(42)], [PID(7), PID(50)]])
    #expect(throws: ScheduleError.levelsMissing(TaskID(0), 3)) {
      try ForkSchedule.compute(rootInit, options: .init(outermostNamedLevel: 3))
    }
  }

  @Test func innermostLevelAloneComesBack() throws {
    let tree = rootInit
    let schedule = try ForkSchedule.compute(tree, options: .init(outermostNamedLevel: 2))
    var run = ScheduleRun(schedule, on: KernelModel(), tool: KernelModel().initProcess)
    try run.execute(order: schedule.steps.indices)
    let root = try #require(run.process(of: .task(TaskID(0))))
    let result = run.kernel.record(root: root, outermost: run.kernel.namespace(of: root))
    #expect(result.canonical() == tree.canonical(droppingLevels: 2))
  }

  @Test func newNamespaceHasAHelperAsInit() throws {
    let tree = tree { $0.task(11, parent: 10) }
    let schedule = try ForkSchedule.compute(tree, options: .init(newPIDNamespace: true))
    #expect(
      schedule.lines(of: tree) == [
        "tool: clone helper 1 with NEWPID", "helper 1: clone 10", "10: setsid", "10: clone 11",
      ])
    var run = ScheduleRun(schedule, on: KernelModel(), tool: KernelModel().initProcess)
    try run.execute(order: schedule.steps.indices)
    let root = try #require(run.process(of: .task(TaskID(0))))
    let result = run.kernel.record(root: root, outermost: run.kernel.namespace(of: root))
    #expect(result.canonical() == tree.canonical())
  }
}
