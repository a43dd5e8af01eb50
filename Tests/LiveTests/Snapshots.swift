import Glibc
import Testing

extension Live {
  /// `dump --snapshot`: the tree is frozen for the copying only, and the images hold one instant all the same.
  @Suite struct Snapshots {
    /// The program that was dumped goes on, and finds nothing that it did not make.
    @Test func theProgramGoesOn() throws {
      try LiveProgram(name: "fixtures/generations").run { job in
        let before = Processes.tree(of: job.pid)
        for round in 0..<5 {
          let outcome = try job.tryDump(["--leave-running", "--snapshot"], to: job.path("round-\(round)"))
          #expect(outcome.code == 0, "\(outcome.errors)")
          #expect(Processes.tree(of: job.pid) == before, "the tree has tasks more, or less")
        }
      }
    }

    /// SIGCHLD, which the program ignores, comes at any moment of a dump, and no call is interrupted by it.
    @Test(arguments: [[], ["--snapshot"]])
    func ignoredSignalsInterruptNothing(_ options: [String]) throws {
      try LiveProgram(name: "fixtures/births").run { job in
        for round in 0..<40 {
          let outcome = try job.tryDump(["--leave-running"] + options, to: job.path("round"))
          #expect(outcome.code == 0, "\(round): \(outcome.errors)")
          Files.remove(job.path("round"))
        }
      }
    }

    /// What is restored goes on in the middle of its walk.
    @Test func theImagesHoldOneInstant() throws {
      try LiveProgram(name: "fixtures/generations").run { job in
        try job.dump("--leave-running", "--snapshot")
        usleep(50_000)
        try job.killTree()
        try job.restore()
        usleep(200_000)
      }
    }

    /// The flags of its mappings are read before it is frozen, and may be others by then.
    @Test func aProgramThatChangesItsMind() throws {
      for _ in 0..<8 {
        try LiveProgram(name: "fixtures/fickle").run { job in
          try job.dump("--leave-running", "--snapshot")
          try job.killTree()
          try job.restore()
          usleep(50_000)
        }
      }
    }

    /// Its own namespaces, where numbers and /proc are others than the tool's.
    @Test func inNamespacesOfItsOwn() throws {
      let script =
        "echo started > started; n=0; while [ $n -lt 40 ]; do n=$((n+1)); echo $n >> out; sleep 0.1; done; wait; echo done >> out"
      try Job.run(["/usr/bin/unshare", "-p", "-f", "--mount-proc", "/bin/sh", "-c", script], named: "snapshot-ns") { job in
        try job.waitFor("started")
        try job.dump("--leave-running", "--snapshot")
        #expect(try job.finish() == 0)
        #expect(try job.text("out").hasSuffix("40\ndone\n"))
      }
    }

    /// A program that has executed another meanwhile is waited for in the address space that it has then.
    @Test func theProgramExecutesAnother() throws {
      try LiveProgram(name: "fixtures/restless").run { job in
        for round in 0..<15 {
          let outcome = try job.tryDump(["--leave-running", "--snapshot"], to: job.path("round-\(round)"))
          #expect(outcome.code == 0, "round \(round): \(outcome.errors)")
          Files.remove(job.path("round-\(round)"))
        }
      }
    }

    /// Killed while its copies write, the tool leaves a program that runs on and no task but the program's.
    @Test func killedInBetween() throws {
      try LiveProgram(name: "fixtures/generations").run { job in
        let before = Processes.tree(of: job.pid)
        for round in 0..<20 {
          let tool = try Processes.start(
            [Tool.path, "dump", "-t", "\(job.pid)", "-D", job.path("killed-\(round)"), "-R", "--snapshot"], in: job.folder,
            output: job.path("tool-out"), errors: job.path("tool-err"), newSession: false)
          usleep(UInt32.random(in: 0...60_000))
          kill(tool, SIGKILL)
          #expect(Processes.wait(for: tool, seconds: 10) != nil)
          #expect(
            Processes.poll(5) { Processes.tree(of: job.pid) == before },
            "round \(round): a copy is left: \(Processes.tree(of: job.pid)), before: \(before)")
        }
      }
    }

    @Test func itIsForProgramsThatRunOn() throws {
      try LiveProgram(name: "fixtures/five").run { job in
        let outcome = try job.tryDump(["--snapshot"], to: job.path("refused"))
        #expect(outcome.code == 64)
        #expect(outcome.errors.contains("--leave-running"))
      }
    }
  }
}
