import Glibc
import Testing

extension Live {
  /// What happens at the worst moment, and with what others have made.
  @Suite struct Robustness {
    /// The tool is killed at many moments of a dump; the program goes on each time, and ends with the right result.
    @Test func killedDumpLeavesTheProgramAsItWas() throws {
      let summing = """
        import threading, time, sys
        sums = [0] * 3
        def work(i):
            for n in range(40):
                t = time.monotonic(); time.sleep(0.05)
                if time.monotonic() - t < 0.05: sys.exit(3)
                sums[i] += sum(k & 7 for k in range(20000))
        threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        for t in threads: t.start()
        open("started", "w").close()
        for t in threads: t.join()
        print(sums == [40 * 70000] * 3)
        """
      try Job.run(["/usr/bin/python3", "-c", summing], named: "killed-dump") { job in
        try job.waitFor("started")
        let mappings = (Files.text("/proc/\(job.pid)/maps") ?? "").split(separator: "\n").filter { $0.contains("rwxs") }.count
        #expect(mappings == 0)
        for round in 0..<60 {
          let tool = try start([Tool.path, "dump", "-t", "\(job.pid)", "-D", job.path("killed-\(round)"), "-R"])
          usleep(UInt32.random(in: 0...12_000))
          kill(tool, SIGKILL)
          var status: Int32 = 0
          waitpid(tool, &status, 0)
          usleep(15_000)
        }
        // Who is killed last is still being cleaned up after, for as long as the machine is busy.
        func left() -> [Substring] {
          (Files.text("/proc/\(job.pid)/maps") ?? "").split(separator: "\n").filter { $0.contains("rwxs") }
        }
        #expect(Processes.poll(5) { left().isEmpty }, "mapped still: \(left())")
        #expect(try job.finish() == 0)
        #expect(try job.text("out") == "True\n")
      }
    }

    /// The tool's threads meet at locks (Linux/Guarded): many tasks, many times.
    @Test func aLargeTreeIsDumpedAgainAndAgain() throws {
      try LiveProgram(name: "many_children").run { job in
        for round in 0..<40 {
          let outcome = try job.tryDump(["--leave-running"], to: job.path("round-\(round)"))
          #expect(outcome.code == 0, "round \(round): \(outcome.errors)")
          Files.remove(job.path("round-\(round)"))
        }
      }
    }

    /// What the tool knows of a thread it does not keep until it knows all of them: 3000 took 46 MiB once.
    @Test func memoryDoesNotGrowWithTheThreads() throws {
      let crowd = """
        import threading, time
        threading.stack_size(65536)
        for _ in range(3000): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        open("started", "w").close()
        time.sleep(1000)
        """
      try Job.run(["/usr/bin/python3", "-c", crowd], named: "memory") { job in
        try job.waitFor("started")
        try expectSmall(job, try job.tryDump(prefix: measuring(job)))
        _ = Processes.wait(for: job.pid, seconds: 10)
        try expectSmall(job, try job.tryRestore(prefix: measuring(job)))
      }
    }

    /// A small process starts the tool: what its starter has in memory counts as a program's own until it begins (man 2 getrusage).
    private func measuring(_ job: Job) -> [String] {
      let script = """
        import os, sys
        pid = os.fork()
        if pid == 0: os.execv(sys.argv[2], sys.argv[2:])
        _, status, usage = os.wait4(pid, 0)
        open(sys.argv[1], "w").write(str(usage.ru_maxrss))
        sys.exit(os.waitstatus_to_exitcode(status))
        """
      return ["/usr/bin/python3", "-c", script, job.path("peak")]
    }

    private func expectSmall(_ job: Job, _ ended: Tool.Outcome, mebibytes: Int = 32) throws {
      try #require(ended.code == 0, "\(ended.errors)")
      let peak = try #require(Int(try job.text("peak")))
      #expect(peak < mebibytes << 10, "\(peak) KiB")
    }

    /// Of a tree of thousands the tool lets go of each task as soon as that has been written: it is back in its stop then, with nothing of the
    /// tool's in it, and goes on with the others. 5000 tasks took 31 MiB while what was known of each was kept.
    @Test func thousandsAreGivenBackOneByOne() throws {
      try LiveProgram(name: "fixtures/thousands").run { job in
        let tree = [job.pid] + children(of: job.pid)
        try #require(tree.count == 5001)
        // Who goes on runs for a moment before it waits again.
        func expectUnharmed() {
          var odd: [pid_t] = []
          let unharmed = Processes.poll(10) {
            odd = tree.filter { !isUnharmed($0) }
            return odd.isEmpty
          }
          #expect(unharmed, "\(odd.count), the first \(odd.first ?? 0)")
        }
        try expectSmall(job, try job.tryDump(["--leave-running"], to: job.path("first"), prefix: measuring(job)), mebibytes: 22)
        Files.remove(job.path("first"))
        expectUnharmed()
        // One of the last fails, when most have been given back.
        let failed = try job.tryDump(to: job.path("second"), prefix: ["env", "SWIFT_RESTORE_FAULT=9000:EDOM"])
        #expect(failed.code == 1 && failed.errors.contains("EDOM"), "\(failed.errors)")
        Files.remove(job.path("second"))
        expectUnharmed()
        try expectSmall(job, try job.tryDump(prefix: measuring(job)), mebibytes: 22)
        for pid in tree { _ = Processes.wait(for: pid, seconds: 10) }
        try expectSmall(job, try job.tryRestore(prefix: measuring(job)), mebibytes: 22)
      }
    }

    /// The same of few tasks with very many mappings, each with others: these took 100 MiB to dump and to restore while all were known.
    @Test func mappingsOfManyAreHeldOneByOne() throws {
      try LiveProgram(name: "fixtures/mappings_children").run { job in
        try expectSmall(job, try job.tryDump(prefix: measuring(job)), mebibytes: 36)
        try job.expectGone()
        try expectSmall(job, try job.tryRestore(prefix: measuring(job)))
      }
    }

    private func isUnharmed(_ pid: pid_t) -> Bool {
      guard let status = Files.text("/proc/\(pid)/status"), let maps = Files.text("/proc/\(pid)/maps") else { return false }
      return status.contains("State:\tS") && status.contains("TracerPid:\t0\n") && !maps.contains("rwxs")
    }

    private func children(of pid: pid_t) -> [pid_t] {
      (Files.text("/proc/\(pid)/task/\(pid)/children") ?? "").split(separator: " ").compactMap { pid_t($0) }
    }

    /// A tree of more processes than the tool may have files open: in containers that can be few.
    @Test func moreProcessesThanDescriptors() throws {
      let script = "for i in $(seq 300); do sleep 1000 & done; touch started; wait"
      try Job.run(["/bin/sh", "-c", script], named: "descriptors") { job in
        try job.waitFor("started")
        let prefix = ["/bin/sh", "-c", "ulimit -n 256 && exec \"$0\" \"$@\""]
        for _ in 0..<2 {
          let dump = try job.tryDump(prefix: prefix)
          try #require(dump.code == 0, "\(dump.errors)")
          try job.expectGone()
          // It cannot give back the limit of before under one that is lower for good.
          let restore = try job.tryRestore()
          try #require(restore.code == 0, "\(restore.errors)")
          #expect(Processes.tree(of: job.pid).count == 301)
        }
      }
    }

    /// SIGKILL at random moments, of the tool and of the process that works for it: scripts/kill-sweep, which says what it looks at.
    @Test(
      .timeLimit(.minutes(5)),
      arguments: [["dump", "50"], ["dump", "50", "--worker"], ["restore", "50"], ["restore", "20", "--nested"]])
    func killedAtRandom(_ arguments: [String]) throws { try run("kill-sweep", arguments) }

    /// An init that is killed while its tree is dumped waits in its exit for all of its namespace, whom the dump holds.
    @Test func killedInitDoesNotHoldTheDump() throws {
      let nested = Array(repeating: ["unshare", "--pid", "--fork"], count: 6).flatMap { $0 }
      for i in stride(from: 0, to: 12, by: 2) {
        try Job.run(nested + ["sleep", "1000"], named: "inits") { job in
          _ = Processes.poll(10) { Processes.tree(of: job.pid).count == 7 }
          let tree = Processes.tree(of: job.pid)
          let dump = try Processes.start(
            [Tool.path, "dump", "-t", "\(job.pid)", "-D", job.path("images"), "-R"], in: "/", output: "/dev/null", errors: "/dev/null",
            newSession: false)
          usleep(UInt32(i) * 1500)
          kill(tree[1 + i % 5], SIGKILL)
          let ended = Processes.wait(for: dump, seconds: 30)
          if ended == nil { kill(dump, SIGTERM) }
          #expect(ended != nil, "the dump hangs")
          // Each unshare ends with its child.
          #expect(Processes.wait(for: job.pid, seconds: 10) != nil, "\(job.condition)")
        }
      }
    }

    /// In a sandbox a task reads its memory itself.
    @Test func largeMemoryWithoutUserfaultfd() throws {
      let sandbox = LiveProgram(name: "fixtures/without_userfaultfd").compile(to: "sandbox")
      try LiveProgram(name: "mem_patchwork").run(prepare: sandbox) { job in
        try job.dump()
        // What the sandbox has set cannot be taken back: no_new_privs.
        let refusal = try job.tryRestore(prefix: [job.path("sandbox")])
        #expect(refusal.code == 1 && refusal.errors.contains("no_new_privs"), "\(refusal.errors)")
        let outcome = try job.tryRestore(["--unprivileged"], prefix: [job.path("sandbox")])
        #expect(outcome.code == 0, "\(outcome.errors)")
      }
    }

    /// Processes that fork as fast as they can get in the way of every PID: scripts/race-pids.
    @Test(.timeLimit(.minutes(5))) func racingForks() throws { try run("race-pids", ["10"]) }

    private func run(_ script: String, _ arguments: [String]) throws {
      let folder = try Files.makeTemporaryFolder("sweep")
      defer { Files.remove(folder) }
      let path = "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/") + "/scripts/" + script
      let sweep = try Processes.start(
        ["/usr/bin/python3", path] + arguments, in: "/", environment: ["SWIFT_RESTORE": Tool.path],
        output: folder + "/out", errors: folder + "/err", newSession: false)
      let ended = Processes.wait(for: sweep, seconds: 280)
      if ended == nil { kill(sweep, SIGTERM) }
      let said = (Files.text(folder + "/out") ?? "") + (Files.text(folder + "/err") ?? "")
      #expect(ended?.code == 0, "\(said)")
    }

    /// An image set that CRIU 4.2 wrote comes to life.
    @Test(arguments: [("sleep", [24222]), ("pipeline", [24256, 24257, 24258])])
    func checkpointOfCRIUIsRestored(_ name: String, _ pids: [Int32]) throws {
      let package = "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
      let shared = getenv("SHARED").map { String(cString: $0) } ?? package + "/../shared"
      let images = "\(shared)/criu-images/\(name)"
      guard Files.exists(images) else { return }
      // A restore leaves its statistics in the folder: a copy spares the samples.
      let copy = try Files.makeTemporaryFolder(name)
      defer { Files.remove(copy) }
      for file in Files.names(images) { try Files.write(Files.bytes("\(images)/\(file)") ?? [], to: "\(copy)/\(file)") }
      // The numbers are the samples': a thread of somebody else, even of these tests, may have one of them just now.
      func areTaken() -> Bool { pids.contains { Files.exists("/proc/\($0)/stat") } }
      for _ in 0..<100 where areTaken() { usleep(100_000) }
      if areTaken() { return }
      let outcome = try Tool.run(["restore", "-D", copy, "-d"])
      // Whose they are otherwise is not known.
      try #require(outcome.code == 0, "\(outcome.errors)")
      defer { for pid in pids.reversed() { kill(pid, SIGKILL) } }
      usleep(50_000)
      for pid in pids {
        let stat = (Files.text("/proc/\(pid)/stat") ?? "").split(separator: " ").map(String.init)
        #expect(stat.count > 4 && stat[2] == "S" && stat[4] == "\(pids[0])", "\(pid): \(stat)")
      }
    }

    private func start(_ arguments: [String]) throws -> pid_t {
      var pid: pid_t = 0
      let argv = arguments.map { strdup($0) } + [nil]
      defer { for argument in argv { free(argument) } }
      var actions = posix_spawn_file_actions_t()
      posix_spawn_file_actions_init(&actions)
      defer { posix_spawn_file_actions_destroy(&actions) }
      for fd: Int32 in 1...2 { posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_WRONLY, 0) }
      #expect(posix_spawn(&pid, arguments[0], &actions, nil, argv, environ) == 0)
      return pid
    }
  }
}
