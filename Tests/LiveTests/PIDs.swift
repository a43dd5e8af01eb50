import Glibc
import Testing

extension Live {
  /// PIDs in namespaces made by hand; RandomTrees has those that nobody would think of.
  @Suite struct PIDs {
    private static let counting =
      "trap 'echo term >term; exit 7' TERM; i=0; while :; do i=$((i+1)); echo $$ $i >out.new; mv out.new count; sleep 0.02; done"

    /// One level deeper the tree has its PIDs, and an init that passes signals on, reaps, and ends when nobody is left.
    @Test func newNamespaceKeepsAnInit() throws {
      try Job.run(["sh", "-c", Self.counting], named: "newns") { job in
        try job.waitFor("count")
        try job.dump()
        // Its PID being taken does not matter.
        let holder = try Processes.start(
          ["sleep", "100"], in: job.folder, output: "/dev/null", errors: "/dev/null", newSession: false)
        defer { end(holder) }
        let restore = try job.tryRestore(["--new-pid-namespace", "--pidfile", job.path("pid")])
        #expect(restore.code == 0, "\(restore.errors)")
        let root = pid_t(try job.text("pid")) ?? 0
        #expect(LiveTree.numbers("NSpid", of: root) == [root, job.pid])
        let initPID = parent(of: root)
        #expect(Files.text("/proc/\(initPID)/comm") == "restore-init\n")
        #expect(Files.names("/proc/\(initPID)/fd").isEmpty)
        kill(initPID, SIGTERM)
        try job.waitFor("term")
        let ended = Processes.wait(for: initPID, seconds: 5)
        #expect(ended?.code == 7)
        #expect(Processes.state(of: root) == nil)
      }
    }

    /// A tool that waits exits with the root's status.
    @Test func newNamespaceEndsWithTheRoot() throws {
      try inANewNamespace { tool, root in
        kill(tool, SIGTERM)
        #expect(Processes.wait(for: tool, seconds: 5)?.code == 7)
        #expect(Processes.state(of: root) == nil)
      }
    }

    /// A tool that is killed takes the namespace with it.
    @Test func newNamespaceDiesWithTheTool() throws {
      try inANewNamespace { tool, root in
        kill(tool, SIGKILL)
        _ = Processes.wait(for: tool, seconds: 5)
        #expect(Processes.poll(5) { Processes.state(of: root) ?? "Z" == "Z" })
        Processes.reapOrphans(of: [root])
      }
    }

    /// A shell that counts, restored in a new PID namespace by a tool that waits for it.
    private func inANewNamespace(_ body: (_ tool: pid_t, _ root: pid_t) throws -> Void) throws {
      try Job.run(["sh", "-c", Self.counting], named: "newns") { job in
        try job.waitFor("count")
        try job.dump()
        let tool = try start(["--new-pid-namespace", "--pidfile", job.path("pid")], job)
        // The file is there before the tree is.
        try #require(Processes.poll(15) { Files.text(job.path("pid"))?.isEmpty == false })
        try body(tool, pid_t(try job.text("pid")) ?? 0)
      }
    }

    /// As deep as clone3 can name every PID: 32 levels; and one more, which the dance can.
    @Test(arguments: [31, 32]) func deepNesting(_ count: Int) throws {
      // Somebody else may have taken one of the PIDs meanwhile.
      for attempt in 1...5 where try comesBack(nested: count, isLast: attempt == 5) { break }
    }

    private func comesBack(nested count: Int, isLast: Bool) throws -> Bool {
      let nested = Array(repeating: ["unshare", "--pid", "--fork"], count: count).flatMap { $0 }
      return try Job.run(nested + ["sleep", "1000"], named: "deep") { job in
        _ = Processes.poll(10) { Processes.tree(of: job.pid).count == count + 1 }
        usleep(100_000)
        let before = LiveTree(of: job.pid)
        #expect(before.lines.count == count + 1)
        try job.dump()
        var options: [String] = []
        if count == 32 {
          let outcome = try job.tryRestore()
          #expect(outcome.code == 1 && outcome.errors.contains("33 levels"), "\(outcome.errors)")
          options = ["--pid-method", "ns-last-pid", "--pid-retries", "100"]
        }
        let outcome = try restore(job, options)
        if Self.isTaken(outcome), !isLast { return false }
        try #require(outcome.code == 0, "\(outcome.errors)")
        #expect(LiveTree(of: job.pid) == before)
        return true
      }
    }

    /// Somebody else has the PID of a task that lives in an inner namespace too.
    @Test func takenPIDIsNamed() throws {
      try Job.run(["unshare", "--pid", "--fork", "sleep", "1000"], named: "taken") { job in
        _ = Processes.poll(10) { Processes.tree(of: job.pid).count == 2 }
        usleep(100_000)
        let inner = Processes.tree(of: job.pid)[1]
        try job.dump()
        let holder = try take(inner, job)
        defer { end(holder) }
        for method in ["clone3", "ns-last-pid"] {
          let outcome = try job.tryRestore(["--pid-method", method, "--pid-retries", "3"])
          #expect(outcome.code == 1)
          #expect(outcome.errors.contains("\(inner)") && outcome.errors.contains("sleep"), "\(outcome.errors)")
          #expect(Processes.state(of: job.pid) == nil)
        }
      }
    }

    /// Dumps the sleep below the shell that is a namespace's init, from outside; all of the job ends. Its PIDs here and there.
    private func dumpInnerSleep(of job: Job) throws -> (root: pid_t, inner: pid_t) {
      _ = Processes.poll(10) { Processes.tree(of: job.pid).count == 3 }
      let root = Processes.tree(of: job.pid).last ?? 0
      _ = Processes.poll(5) { Files.text("/proc/\(root)/comm") == "sleep\n" }
      let inner = LiveTree.numbers("NSpid", of: root).last ?? 0
      let dump = try Tool.run(["dump", "-t", "\(root)", "-D", job.images])
      #expect(dump.code == 0, "\(dump.errors)")
      try job.killTree()
      return (root, inner)
    }

    /// A tree that was dumped from outside of its namespace, restored inside of one where a PID of that level is taken.
    @Test func takenInnerPIDIsNamed() throws {
      let script = "echo 99 >/proc/sys/kernel/ns_last_pid; setsid sleep 1000 & wait"
      try Job.run(["unshare", "--pid", "--fork", "sh", "-c", script], named: "inner") { job in
        let (root, inner) = try dumpInnerSleep(of: job)
        let holder = "echo \(inner - 1) >/proc/sys/kernel/ns_last_pid; tail -f /dev/null & test $! = \(inner) && exec env \"$@\""
        let outcome = try Tool.run(
          ["restore", "-D", job.images, "-d", "--pid-retries", "3"],
          prefix: ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", holder, "sh"])
        #expect(outcome.code == 1)
        #expect(outcome.errors.contains("its PID \(inner) "), "\(outcome.errors)")
        #expect(outcome.errors.contains("taken by the process tail"), "\(outcome.errors)")
        #expect(Processes.state(of: root) == nil)
        try job.expectNothingLeft()
      }
    }

    /// Restores what ``dumpInnerSleep(of:)`` dumped in a namespace made for it. Its PID here.
    private func restoreDeeper(_ job: Job, _ inner: pid_t) throws -> pid_t {
      let restore = try Tool.run(["restore", "-D", job.images, "-d", "--new-pid-namespace", "--pidfile", job.path("pid")])
      try #require(restore.code == 0, "\(restore.errors)")
      let restored = pid_t(try job.text("pid")) ?? 0
      #expect(LiveTree.numbers("NSpid", of: restored) == [restored, inner])
      return restored
    }

    /// Dumped from outside of its namespace, with the machine's proc hidden below its own; restored in a namespace made for it.
    @Test func innerRootComesBackInANewNamespace() throws {
      let script = "setsid sleep 1000 & wait"
      try Job.run(["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script], named: "deeper") { job in
        let (_, inner) = try dumpInnerSleep(of: job)
        let restored = try restoreDeeper(job, inner)
        defer { end(parent(of: restored)) }
        // Its proc shows the new namespace: the init and itself.
        #expect(Files.names("/proc/\(restored)/root/proc").compactMap { pid_t($0) }.sorted() == [1, inner])
      }
    }

    /// Each PID namespace has a limit of its own, since Linux 6.14, and may have higher numbers than the one around it.
    @Test func numberAboveTheLimitIsNamed() throws {
      let limit = try #require(Int(Files.text("/proc/sys/kernel/pid_max")?.dropLast() ?? ""))
      let script = "echo \(limit + 100) >/proc/sys/kernel/ns_last_pid; setsid sleep 1000 & wait"
      try Job.run(["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", script], named: "limit") { job in
        let (_, inner) = try dumpInnerSleep(of: job)
        // The kernel has one limit for all.
        if inner <= limit { return }
        let outcome = try job.tryRestore()
        #expect(outcome.code == 1)
        #expect(outcome.errors.contains("PID \(inner)") && outcome.errors.contains("pid_max is \(limit)"), "\(outcome.errors)")
        end(parent(of: try restoreDeeper(job, inner)))
      }
    }

    // MARK: PIDs that stay taken

    enum Namesake: String, CaseIterable, CustomTestStringConvertible {
      case tool, parent, group
      var testDescription: String { rawValue }

      /// A shell that must have the PID `$1`, as its number is 77 otherwise; the rest is the tool's command.
      var script: String {
        switch self {
        case .tool: #"test $$ = $1 || exit 77; shift; exec "$@""#
        case .parent: #"test $$ = $1 || exit 77; shift; "$@"; exit $?"#
        // The leader of session and group has gone before the tool starts.
        case .group:
          #": >code; echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid; setsid sh -c 'test $$ = $1 || exec echo 77 >code; (while kill -0 $1; do sleep 0.01; done 2>&-; shift; "$@"; echo $? >code) &' sh "$@" & wait $!; until test -s code; do sleep 0.01; done; exit $(cat code)"#
        }
      }
      var words: String {
        switch self {
        case .tool: "swift-restore's own"
        case .parent: "that of the process sh"
        case .group: "that of the process group"
        }
      }
    }

    /// The tool cannot end before the tree is there, nor can who waits for it: no number of tries would help.
    @Test(arguments: Namesake.allCases) func ownPIDIsRefused(_ namesake: Namesake) throws {
      try Job.run(["sleep", "1000"], named: "own") { job in
        _ = Processes.poll(5) { Files.text("/proc/\(job.pid)/comm") == "sleep\n" }
        try job.dump()
        for method in ["clone3", "ns-last-pid"] {
          try expectRefusal(namesake, job.pid, job, ["--pid-method", method])
        }
        let deeper = try runTool(as: namesake, job.pid, job, ["--new-pid-namespace"])
        #expect(deeper.code == 0, "\(deeper.errors)")
        job.endAll()
        try job.restore()
      }
    }

    /// A thread's number can be the tool's too.
    @Test func ownPIDOfAThreadIsRefused() throws {
      let verdict = try LiveProgram(name: "threads").run { job in
        let tids = Files.names("/proc/\(job.pid)/task").compactMap { pid_t($0) }.filter { $0 != job.pid }
        try job.dump()
        try expectRefusal(.tool, try #require(tids.max()), job)
        try job.restore()
      }
      #expect(verdict == .pass)
    }

    /// A process group keeps its number when its leader has gone.
    @Test func groupThatHasThePIDIsNamed() throws {
      try Job.run(["sleep", "1000"], named: "group") { job in
        _ = Processes.poll(5) { Files.text("/proc/\(job.pid)/comm") == "sleep\n" }
        try job.dump()
        let member = try hold(job.pid, "tail -f /dev/null & echo $! >member", job)
        defer { end(member) }
        for method in ["clone3", "ns-last-pid"] {
          let outcome = try job.tryRestore(["--pid-method", method, "--pid-retries", "2"])
          #expect(outcome.code == 1)
          #expect(outcome.errors.contains("group of the process tail (\(member))"), "\(outcome.errors)")
        }
      }
    }

    /// A helper that may have any number gets none that is a process's, nor one that only a group or a session keeps.
    @Test func helpersGetFreeNumbers() throws {
      // The init's child is in the session of a process further down: a child of that one has made it.
      let script = #"sh -c "setsid sh -c '(sleep 1000 &); exec sleep 1001' & wait" & wait"#
      try Job.run(["unshare", "--pid", "--fork", "sh", "-c", script], named: "helpers") { job in
        _ = Processes.poll(10) {
          Processes.tree(of: job.pid).count(where: { Files.text("/proc/\($0)/comm") == "sleep\n" }) == 2
        }
        let before = LiveTree(of: job.pid)
        try job.dump()
        #expect(try Tool.run(["show", job.images, "--schedule"]).output.contains("any free PID"))
        // Of those that would be chosen first; others on the machine may have one.
        let last = try #require(pid_t(Files.text("/proc/sys/kernel/pid_max")?.dropLast() ?? "")) - 1
        var members: [pid_t] = []
        defer { for member in members { end(member) } }
        for number in (last - 8...last).reversed() where members.count < 2 {
          let script = members.isEmpty ? "tail -f /dev/null & echo $! >member" : "set -m; tail -f /dev/null & echo $! >member"
          if let member = try? hold(number, script, job) { members.append(member) }
        }
        try #require(members.count == 2)
        for method in ["clone3", "ns-last-pid"] {
          let outcome = try restore(job, ["--pid-method", method])
          try #require(outcome.code == 0, "\(outcome.errors)")
          #expect(LiveTree(of: job.pid) == before)
          try job.killTree()
        }
      }
    }

    /// Restores by a tool that has, or whose parent or process group has, this PID.
    private func runTool(as namesake: Namesake, _ pid: pid_t, _ job: Job, _ options: [String]) throws -> Tool.Outcome {
      var outcome: Tool.Outcome?
      let isDone = try Processes.poll(10) {
        // The group's number is that of the shell's child: the shell writes it.
        if namesake != .group { try? Files.write("\(pid - 1)", to: "/proc/sys/kernel/ns_last_pid") }
        outcome = try Tool.run(
          ["restore", "-D", job.images, "-d"] + options,
          prefix: ["env", "-C", job.folder, "sh", "-c", namesake.script, "sh", "\(pid)"])
        return outcome?.code != 77
      }
      guard isDone, let outcome else { throw LiveFailure("PID \(pid) is not to be had: \(Files.text("/proc/\(pid)/comm") ?? "")") }
      return outcome
    }

    private func expectRefusal(_ namesake: Namesake, _ pid: pid_t, _ job: Job, _ options: [String] = []) throws {
      let outcome = try runTool(as: namesake, pid, job, options)
      #expect(outcome.code == 1)
      #expect(outcome.errors.contains("PID \(pid) is") && outcome.errors.contains(namesake.words), "\(outcome.errors)")
      #expect(outcome.errors.contains("--new-pid-namespace"), "\(outcome.errors)")
      try job.expectNothingLeft()
    }

    // MARK: Parts

    /// Others on the machine may have one of the PIDs for a while.
    private func restore(_ job: Job, _ options: [String]) throws -> Tool.Outcome {
      var outcome: Tool.Outcome?
      _ = try Processes.poll(10) {
        outcome = try job.tryRestore(options)
        // What an attempt leaves comes to this process.
        Processes.reapOrphans(of: [job.pid])
        return outcome.map { !Self.isTaken($0) } ?? true
      }
      return try #require(outcome)
    }

    private static func isTaken(_ outcome: Tool.Outcome) -> Bool {
      outcome.code == 1 && !outcome.errors.contains("process tail")
        && ["has it", "EEXIST", "swift-restore's own", "waits for swift-restore"].contains { outcome.errors.contains($0) }
    }

    private func parent(of pid: pid_t) -> pid_t {
      let stat = Files.text("/proc/\(pid)/stat") ?? ""
      let fields = stat[(stat.lastIndex(of: ")") ?? stat.startIndex)...].dropFirst(2).split(separator: " ")
      return fields[checked: 1].flatMap { pid_t($0) } ?? 0
    }

    private func start(_ options: [String], _ job: Job) throws -> pid_t {
      try Processes.start(
        [Tool.path, "restore", "-D", job.images] + options, in: "/", output: job.path("tool"), errors: job.path("tool"),
        newSession: false)
    }

    /// A process of ours that has this PID.
    private func take(_ pid: pid_t, _ job: Job) throws -> pid_t {
      for _ in 0..<50 {
        try? Files.write("\(pid - 1)", to: "/proc/sys/kernel/ns_last_pid")
        let new = try Processes.start(
          ["sleep", "100"], in: job.folder, output: "/dev/null", errors: "/dev/null", newSession: false)
        if new == pid {
          _ = Processes.poll(5) { Files.text("/proc/\(new)/comm") == "sleep\n" }
          return new
        }
        end(new)
      }
      throw LiveFailure("PID \(pid) is not to be had")
    }

    /// Has a shell that leads a session have this PID, and end: what it has started keeps the number. The PID of that.
    private func hold(_ pid: pid_t, _ script: String, _ job: Job) throws -> pid_t {
      for _ in 0..<50 {
        try? Files.write("\(pid - 1)", to: "/proc/sys/kernel/ns_last_pid")
        let leader = try Processes.start(
          ["sh", "-c", "test $$ = $1 || exit 77; \(script)", "sh", "\(pid)"], in: job.folder, output: "/dev/null", errors: "/dev/null",
          newSession: true)
        if Processes.wait(for: leader, seconds: 5)?.code == 0 { return pid_t(try job.text("member").dropLast()) ?? 0 }
      }
      throw LiveFailure("PID \(pid) is not to be had")
    }

    private func end(_ pid: pid_t) {
      kill(pid, SIGKILL)
      _ = Processes.wait(for: pid, seconds: 5)
    }
  }
}
