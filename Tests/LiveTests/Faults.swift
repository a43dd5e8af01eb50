import Glibc
import Testing

extension Live {
  /// Every program that is sent to a task fails once: the tool says so, and leaves all as it was (Tracee/FaultInjection).
  @Suite struct Faults {
    /// Where in its program: at the first call, and at the last one.
    @Test(arguments: ["", ".1000000"], [[], ["--snapshot"]])
    func everyProgramOfADump(_ call: String, _ options: [String]) throws {
      try LiveProgram(name: "fixtures/five").run { job in
        let tree = Processes.tree(of: job.pid)
        #expect(tree.count == 5)
        let before = Condition(of: tree)
        // Who cannot make a copy writes its memory itself: with --snapshot a failure is no end.
        var failed = 0
        var succeeded = 0
        for number in 1..<1000 {
          let images = job.path("faulty")
          let outcome = try job.tryDump(
            ["--leave-running"] + options, to: images, prefix: ["env", "SWIFT_RESTORE_FAULT=\(number)\(call):EDOM"])
          if outcome.code == 0 {
            succeeded += 1
            Files.remove(images)
            if succeeded > (options.isEmpty ? 0 : 8) { break }
            continue
          }
          failed += 1
          succeeded = 0
          expectClear(outcome, "program \(number)\(call)")
          #expect(Files.names(images).filter { $0 != "dump.log" }.isEmpty || !Files.exists(images + "/inventory.img"))
          let changes = before.lastingChanges(of: tree)
          #expect(changes.isEmpty, "program \(number)\(call): \(outcome.errors)")
          if !changes.isEmpty { break }
          Files.remove(images)
        }
        #expect(failed > 10, "there are only \(failed) programs")
      }
    }

    /// Several tasks, and a large one.
    @Test(arguments: ["", ".1000000"], ["fixtures/five", "mem_patchwork"])
    func everyProgramOfARestore(_ call: String, _ name: String) throws {
      try LiveProgram(name: name).run { job in
        try job.dump()
        let before = Surroundings(of: job)
        for number in 1..<1000 {
          let outcome = try job.tryRestore(prefix: ["env", "SWIFT_RESTORE_FAULT=\(number)\(call):EDOM"])
          if outcome.code == 0 {
            #expect(number > 15, "there are only \(number - 1) programs")
            return
          }
          expectClear(outcome, "program \(number)\(call)")
          try job.expectNothingLeft()
          let after = Surroundings(of: job)
          #expect(after == before, "program \(number)\(call): \(outcome.errors)")
          if after != before { return }
        }
      }
    }

    /// One line of cause, one of advice, exit status 1.
    private func expectClear(_ outcome: Tool.Outcome, _ what: String) {
      #expect(outcome.code == 1, "\(what): \(outcome.errors)")
      let lines = outcome.errors.split(separator: "\n")
      #expect(lines.count == 2, "\(what): \(outcome.errors)")
      #expect(lines.first?.contains("EDOM") ?? false, "\(what): \(outcome.errors)")
      #expect(lines.last?.hasPrefix("  ") ?? false, "\(what): \(outcome.errors)")
    }
  }
}
