import Glibc
import Testing

extension Live {
  /// Programs that nobody here wrote, interrupted in their work, must end as if nothing had happened.
  @Suite struct RealPrograms {
    // MARK: sh

    /// One shell counts into a pipe, the other writes what it reads into a file.
    @Test func shellPipelineLosesNoNumberInTenCycles() throws {
      let counting =
        "(i=0; while [ ! -e stop ]; do i=$((i+1)); echo $i; done) | (while read n; do echo $n; done >numbers)"
      try Job.run(["sh", "-c", counting], named: "pipeline") { job in
        try job.waitFor("numbers")
        for _ in 1...10 {
          usleep(50_000)
          try job.cycle()
        }
        try Files.write("", to: job.path("stop"))
        #expect(try job.finish() == 0)
        let numbers = try job.text("numbers").split(separator: "\n")
        #expect(numbers.count > 1000)
        let wrong = numbers.enumerated().first { Int($1) != $0 + 1 }
        #expect(wrong == nil, "line \(wrong.map { $0.offset + 1 } ?? 0) is \(wrong?.element ?? "")")
      }
    }

    // MARK: python3

    static let hashing = """
      import hashlib, sys, threading
      sums = [None] * 4
      def work(i):
          sum, block = hashlib.sha256(), bytes([i]) * (1 << 20)
          for n in range(int(sys.argv[1])):
              sum.update(block)
              if n == 20: open("started%d" % i, "w").close()
          sums[i] = sum.hexdigest()
      threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
      for thread in threads: thread.start()
      for thread in threads: thread.join()
      print("\\n".join(sums))
      """
    static let python = Files.exists("/usr/bin/python3") ? "/usr/bin/python3" : "python3"

    private func runHashing<Result>(_ name: String, megabytes: Int = 500, _ body: (Job) throws -> Result)
      throws -> Result
    {
      try Job.run([Self.python, "-c", Self.hashing, "\(megabytes)"], named: name) { job in
        for i in 0..<4 { try job.waitFor("started\(i)") }
        return try body(job)
      }
    }

    private func undisturbedDigests(megabytes: Int = 500) throws -> String {
      try runHashing("undisturbed", megabytes: megabytes) { job in
        #expect(try job.finish() == 0)
        return try job.text("out")
      }
    }

    @Test func pythonHashesInFourThreads() throws {
      let expected = try undisturbedDigests()
      try runHashing("python") { job in
        try job.cycle()
        #expect(try job.finish() == 0)
        #expect(try job.text("out") == expected)
      }
    }

    /// What is dumped here is what was restored before.
    @Test func twentyCyclesOfOneProgram() throws {
      let expected = try undisturbedDigests(megabytes: 2000)
      try runHashing("twenty", megabytes: 2000) { job in
        for _ in 1...20 { try job.cycle() }
        #expect(try job.finish() == 0)
        #expect(try job.text("out") == expected)
      }
    }

    @Test func copyOfAProgramThatWasLeftRunning() throws {
      let expected = try undisturbedDigests()
      try runHashing("copy") { job in
        let before = try processorTime(of: job)
        try job.dump("--leave-running")
        #expect(
          try Processes.poll(5) { try processorTime(of: job) > before + 10 },
          "the original does not go on: \(job.condition)")
        try job.killTree()
        try job.restore()
        #expect(try job.finish() == 0)
        #expect(try job.text("out") == expected)
      }
    }

    /// Clock ticks of user time.
    private func processorTime(of job: Job) throws -> Int {
      guard let stat = Files.text("/proc/\(job.pid)/stat"), let end = stat.lastIndex(of: ")"),
        let time = Int(stat[end...].split(separator: " ")[12])
      else { throw LiveFailure("the original is gone; \(job.condition)") }
      return time
    }

    // MARK: xz, gcc

    /// Text that compresses by about half, 50 MB of it.
    private func writeInput(to path: String) throws {
      var state: UInt64 = 88_172_645_463_325_252
      var bytes = [UInt8](repeating: 0, count: 50_000_000)
      bytes.withUnsafeMutableBufferPointer { buffer in
        for i in buffer.indices {
          state ^= state << 13
          state ^= state >> 7
          state ^= state << 17
          buffer[i] = UInt8(truncatingIfNeeded: 97 + state % 13)
        }
      }
      try Files.write(bytes, to: path)
    }

    @Test func xzInTwoThreads() throws {
      let shared = try Files.makeTemporaryFolder("xz")
      defer { Files.remove(shared) }
      try writeInput(to: shared + "/input")
      let command = ["xz", "-T2", "-1", "--block-size=4MiB", "--stdout", shared + "/input"]
      let expected = try Job.run(command, named: "undisturbed") { job in
        let code = try job.finish()
        #expect(code == 0, "\(job.condition)")
        return Files.bytes(job.path("out"))
      }
      try Job.run(command, named: "xz") { job in
        usleep(700_000)
        try job.cycle()
        #expect(try job.finish() == 0, "\(job.condition)")
        #expect(Files.bytes(job.path("out")) == expected, "the compressed file differs")
      }
    }

    /// The compiler's driver waits for cc1, then for as, which hand over by a temporary file.
    @Test func gccWithItsChildren() throws {
      let shared = try Files.makeTemporaryFolder("gcc")
      defer { Files.remove(shared) }
      let functions = (0..<1000).map { i in
        "int f\(i)(int *a, int n) { int s = \(i); for (int j = 0; j < n; j++) s += a[j] * \(i % 7 + 1) ^ s >> \(i % 5); return s; }"
      }
      try Files.write(functions.joined(separator: "\n"), to: shared + "/big.c")
      func compile(_ name: String, _ disturb: (Job) throws -> Void) throws -> [UInt8]? {
        try Job.run(
          ["gcc", "-O2", "-c", "-o", "big.o", shared + "/big.c"], named: name, environment: ["TMPDIR": "tmp"],
          prepare: { mkdir($0 + "/tmp", 0o777) }
        ) { job in
          try disturb(job)
          #expect(try job.finish() == 0, "\(job.condition)")
          return Files.bytes(job.path("big.o"))
        }
      }
      let expected = try compile("undisturbed") { _ in }
      let cycled = try compile("gcc") { job in
        usleep(800_000)
        #expect(Processes.tree(of: job.pid).count == 2, "cc1 is not at work")
        for _ in 1...3 { try job.cycle() }
      }
      #expect(cycled != nil && cycled == expected, "the object file differs")
    }

    // MARK: bash

    @Test func bashKeepsItsJobs() throws {
      let script = """
        set -m
        trap 'echo trapped >> trapped' USR1
        sleep 1000 &
        sh -c 'while [ ! -e go ]; do sleep 0.05; done; exit 5' &
        sh -c 'while [ ! -e go ]; do sleep 0.05; done; exit 7' &
        kill -STOP %2
        until jobs > before; grep -q Stopped before; do sleep 0.05; done
        touch ready
        while [ ! -e check ]; do sleep 0.05; done
        jobs > after
        touch go
        wait %3; echo "wait $?" >> statuses
        fg %2; echo "fg $?" >> statuses
        kill %1; wait %1; echo "killed $?" >> statuses
        """
      try Job.run(["bash", "-c", script], named: "bash") { job in
        try job.waitFor("ready")
        try job.cycle()
        kill(job.pid, SIGUSR1)
        try Files.write("", to: job.path("check"))
        #expect(try job.finish(seconds: 20) == 0)
        #expect(try job.text("after") == job.text("before"))
        #expect(try job.text("after").contains("Stopped"))
        #expect(try job.text("trapped") == "trapped\n")
        #expect(try job.text("statuses") == "wait 7\nfg 5\nkilled 143\n")
      }
    }

    /// Stopped like SIGSTOP does it, by dump or restore, a tree goes on when it is told to.
    @Test func leftStoppedUntilToldToGoOn() throws {
      func expectAllStopped(_ job: Job) {
        #expect(
          Processes.poll(5) { Processes.tree(of: job.pid).allSatisfy { Processes.state(of: $0) == "T" } }, "\(job.condition)")
      }
      try runHashing("stopped", megabytes: 100) { job in
        try job.dump("--leave-stopped")
        expectAllStopped(job)
        try job.killTree()
        try job.restore("--leave-stopped")
        expectAllStopped(job)
        let before = try processorTime(of: job)
        usleep(100_000)
        #expect(try processorTime(of: job) == before)
        kill(job.pid, SIGCONT)
        #expect(try job.finish() == 0)
        #expect(try job.text("out") == undisturbedDigests(megabytes: 100))
      }
    }

    // MARK: perl, timeout

    @Test func perlAlarmFiresInTime() throws {
      let script = """
        use Time::HiRes qw(time sleep alarm);
        my $start = time; my $hits = 0;
        $SIG{USR1} = sub { $hits++ };
        $SIG{ALRM} = sub { printf "%.3f %d\\n", time - $start, $hits; exit 3 };
        alarm 3.0; open(my $f, ">", "ready"); close $f;
        sleep 0.01 while 1;
        """
      try Job.run(["perl", "-e", script], named: "perl") { job in
        try job.waitFor("ready")
        usleep(300_000)
        let frozen = try job.cycle(pause: 1)
        kill(job.pid, SIGUSR1)
        #expect(try job.finish(seconds: 20) == 3)
        let words = try job.text("out").split(separator: " ")
        let took = try #require(Double(words[0]))
        #expect(
          took > 3 + frozen.lowerBound - 0.2 && took < 3 + frozen.upperBound + 0.2, "frozen for \(frozen)")
        #expect(words[1] == "1\n")
      }
    }

    @Test func timeoutFiresInTime() throws {
      try Job.run(["timeout", "3", "sleep", "1000"], named: "timeout") { job in
        let start = Processes.now()
        usleep(500_000)
        let frozen = try job.cycle(pause: 1)
        #expect(try job.finish(seconds: 20) == 124)
        let took = Processes.now() - start
        #expect(
          took > 3 + frozen.lowerBound - 0.2 && took < 3 + frozen.upperBound + 0.2,
          "took \(took) s, frozen for \(frozen)")
      }
    }
  }
}
