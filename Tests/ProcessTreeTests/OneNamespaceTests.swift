import Testing

@testable import ProcessTree

/// One small tree per rule, with the schedule that it must get.
@Suite struct OneNamespaceTests {
  private func expect(_ tree: RecordedTree, _ lines: [String]) throws {
    let schedule = try ForkSchedule.compute(tree)
    #expect(schedule.lines(of: tree) == lines)
    #expect(problem(with: tree, options: .init()) == nil)
  }

  @Test func plainFamilyNeedsNothingButClones() throws {
    let tree = tree {
      $0.task(11, parent: 10)
      $0.task(12, parent: 10)
      $0.task(13, parent: 11)
    }
    try expect(
      tree, ["tool: clone 10", "10: setsid", "10: clone 11", "10: clone 12", "11: clone 13"])
    #expect(try ForkSchedule.compute(tree).helpers.isEmpty)
  }

  @Test func whoFollowsItsParentIsMadeLastAndStillCounts() throws {
    let tree = tree {
      $0.task(11, parent: 10, session: [10], group: [11])
      $0.task(12, parent: 11)
      $0.task(13, parent: 11)
      $0.task(14, parent: 10) { $0.isChildSubreaper = true }
    }
    try expect(
      tree,
      [
        "tool: clone 10", "10: setsid", "10: clone 11", "10: clone 14", "11: setpgid, leads a group", "14: become child subreaper",
        "11: clone 12", "11: clone 13",
      ])
    let schedule = try ForkSchedule.compute(tree)
    for task in tree.tasks { #expect(schedule.isReserved(task.pids[0], in: PIDNamespaceID(0))) }
    #expect(schedule.waves.count == 3, "nobody waits for a task that it does not need")
  }

  /// They are in their parents' sessions and groups, and yet somebody needs them before they are.
  @Test func whoLeadsAGroupThatItLeftDoesNotFollow() throws {
    let tree = tree {
      $0.task(20, parent: 10, session: [10], group: [10])
      $0.task(11, parent: 20)
      $0.task(30, parent: 10, session: [10], group: [11])
    }
    #expect(problem(with: tree, options: .init()) == nil)
    var job = TreeBuilder()
    job.task(10, session: [5], group: [13])
    job.task(12, parent: 10, session: [5], group: [12])
    job.task(13, parent: 12)
    #expect(problem(with: job.tree) == nil)
  }

  @Test func pipelineGroupsAreLedThenJoined() throws {
    try expect(
      tree {
        $0.task(20, parent: 10, session: [10], group: [20])
        $0.task(21, parent: 10, session: [10], group: [20])
        $0.task(22, parent: 20)
      },
      [
        "tool: clone 10", "10: setsid", "10: clone 20", "10: clone 21", "20: setpgid, leads a group",
        "21: setpgid, joins group 20", "20: clone 22",
      ])
  }

  @Test func groupOfADescendantIsJoinedWhenItIsThere() throws {
    try expect(
      tree {
        $0.task(11, parent: 10, session: [10], group: [13])
        $0.task(12, parent: 10)
        $0.task(13, parent: 12, session: [10], group: [13])
      },
      [
        "tool: clone 10", "10: setsid", "10: clone 11", "10: clone 12", "12: clone 13",
        "13: setpgid, leads a group", "11: setpgid, joins group 13",
      ])
  }

  @Test func childInTheOldSessionIsBornBeforeSetsid() throws {
    try expect(
      tree {
        $0.task(11, parent: 10, session: [11])
        $0.task(12, parent: 11, session: [10])
        $0.task(13, parent: 11)
      },
      [
        "tool: clone 10", "10: setsid", "10: clone 11", "11: clone 12", "11: setsid", "11: clone 13",
      ])
  }

  @Test func deadSessionLeaderIsCarriedByAHelper() throws {
    try expect(
      tree { $0.task(12, parent: 10, session: [11]) },
      [
        "tool: clone 10", "10: setsid", "10: clone helper 11", "helper 11: setsid",
        "helper 11: clone 12 with PARENT", "helper 11: exit with code 0", "10: wait for helper 11",
      ])
  }

  @Test func deadGroupLeaderIsCarriedByAHelper() throws {
    try expect(
      tree { $0.task(12, parent: 10, session: [10], group: [11]) },
      [
        "tool: clone 10", "10: setsid", "10: clone 12", "12: clone helper 11",
        "helper 11: setpgid, leads a group", "12: setpgid, joins group 11", "helper 11: exit with code 0",
        "12: wait for helper 11",
      ])
  }

  @Test func orphanOfALivingSessionFallsToTheSubreaper() throws {
    // 12 leads the session of 13, but 13 is no child of it or of a sibling.
    let tree = tree {
      $0.task(11, parent: 10)
      $0.task(12, parent: 11, session: [12])
      $0.task(13, parent: 10, session: [12])
    }
    let schedule = try ForkSchedule.compute(tree)
    let lines = schedule.lines(of: tree)
    #expect(lines.contains("10: become child subreaper"))
    #expect(lines.contains("10: stop being child subreaper"))
    #expect(schedule.helpers.map(\.purpose) == [.parentOfOrphans])
    #expect(problem(with: tree) == nil)
  }

  @Test func recordedSubreaperStaysOne() throws {
    let tree = tree {
      $0.tree.tasks[0].isChildSubreaper = true
      $0.task(11, parent: 10)
      $0.task(12, parent: 11, session: [12])
      $0.task(13, parent: 10, session: [12])
    }
    let lines = try ForkSchedule.compute(tree).lines(of: tree)
    #expect(lines.filter { $0.contains("subreaper") } == ["10: become child subreaper"])
    #expect(problem(with: tree) == nil)
  }

  @Test func zombiesExitLastAndAreNotReaped() throws {
    try expect(
      tree {
        $0.task(11, parent: 10) {
          $0.state = .zombie(WaitStatus(killedBy: SignalNumber(6), dumpedCore: true))
        }
        $0.task(12, parent: 10) { $0.threads = [[PID(13)], [PID(14)]] }
      },
      [
        "tool: clone 10", "10: setsid", "10: clone 11", "10: clone 12", "12: make thread 13",
        "12: make thread 14", "11: exit with signal 6 with core",
      ])
  }

  @Test func zombieStillLeadsItsSession() throws {
    try expect(
      tree {
        $0.task(11, parent: 10, session: [11]) { $0.state = .zombie(WaitStatus(exitCode: 3)) }
        $0.task(12, parent: 10, session: [11])
      },
      [
        "tool: clone 10", "10: setsid", "10: clone 11", "11: setsid", "11: clone 12 with PARENT",
        "11: exit with code 3",
      ])
  }

  @Test func leaderMayHaveLeftItsGroup() throws {
    try expect(
      tree {
        $0.task(11, parent: 10, session: [10], group: [10])
        $0.task(12, parent: 10, session: [10], group: [11])
      },
      [
        "tool: clone 10", "10: setsid", "10: clone 11", "10: clone 12", "11: setpgid, leads a group",
        "12: setpgid, joins group 11", "11: setpgid, joins group 10",
      ])
  }

  @Test func swappedLeadersNeedAKeeper() throws {
    let tree = tree {
      $0.task(11, parent: 10, session: [10], group: [12])
      $0.task(12, parent: 10, session: [10], group: [11])
    }
    let schedule = try ForkSchedule.compute(tree)
    #expect(schedule.helpers.contains { $0.purpose == .groupKeeper(PID(11)) })
    #expect(problem(with: tree) == nil)
  }

  @Test func sharedObjectsBecomeCloneFlags() throws {
    try expect(
      tree {
        $0.tree.tasks[0].shares.mm = ShareGroupID(1)
        $0.task(11, parent: 10) { $0.shares = .init(files: ShareGroupID(5), mm: ShareGroupID(1)) }
        $0.task(12, parent: 11) { $0.shares = .init(files: ShareGroupID(5)) }
      },
      ["tool: clone 10", "10: setsid", "10: clone 11 with VM", "11: clone 12 with FILES"])
  }

  @Test func siblingsShareThroughAHelper() throws {
    let tree = tree {
      $0.task(11, parent: 10) { $0.shares.files = ShareGroupID(5) }
      $0.task(12, parent: 10) { $0.shares.files = ShareGroupID(5) }
    }
    #expect(try ForkSchedule.compute(tree).helpers.map(\.purpose) == [.sharing])
    #expect(problem(with: tree) == nil)
  }

  @Test func taskBetweenTwoThatShareLetsGo() throws {
    let tree = tree {
      $0.tree.tasks[0].shares.files = ShareGroupID(5)
      $0.task(11, parent: 10)
      $0.task(12, parent: 11) { $0.shares.files = ShareGroupID(5) }
    }
    #expect(try ForkSchedule.compute(tree).lines(of: tree).contains("11: unshare FILES"))
    #expect(problem(with: tree) == nil)
  }

  @Test func shellJobInheritsSessionAndGroup() throws {
    var builder = TreeBuilder()
    builder.task(20, session: [5], group: [20])
    builder.task(21, parent: 20, session: [5], group: [6])
    builder.tree.tasks[0].group = [PID(6)]
    let tree = builder.tree
    #expect(throws: ScheduleError.sessionLedFromOutside(TaskID(0), PID(5))) { try ForkSchedule.compute(tree) }
    #expect(try ForkSchedule.compute(tree, options: .init(shellJob: true)).lines(of: tree).count == 2)
    #expect(problem(with: tree) == nil)
  }

  @Test func siblingsAreMadeInOneWave() throws {
    let tree = tree {
      for pid in Int32(20)..<24 { $0.task(pid, parent: 10) }
      for pid in Int32(30)..<34 { $0.task(pid, parent: pid - 10) }
    }
    let waves = try ForkSchedule.compute(tree).waves
    #expect(waves.map(\.count) == [1, 5, 4])
  }
}
