import Glibc
import Testing

extension Live {
  /// What users other than root can do: with CAP_CHECKPOINT_RESTORE alone all that is theirs, with nothing at all a restore in
  /// namespaces of their own. The tool and the tree really run as another user.
  @Suite struct WithoutRoot {
    private static let user = "12345"

    enum Right: String, CaseIterable, CustomTestStringConvertible {
      case checkpointRestore, nothing
      var testDescription: String { rawValue }
    }

    /// Runs a command as the other user, with one capability or none.
    private static func prefix(_ right: Right, groups: String = "--clear-groups") -> [String] {
      let caps = right == .nothing ? "-all" : "-all,+checkpoint_restore"
      return [
        "setpriv", "--reuid", user, "--regid", user, groups, "--inh-caps", caps, "--ambient-caps", caps, "--",
      ]
    }

    /// The folder is the user's, with a copy of the tool: he may not be let in to where that was built.
    private static func prepare(_ folder: String) throws {
      guard let tool = Files.bytes(Tool.path) else { throw LiveFailure("no \(Tool.path)") }
      try Files.write(tool, to: folder + "/swift-restore", mode: 0o755)
      let id = uid_t(user) ?? 0
      chown(folder, id, id)
      chmod(folder, 0o755)
    }

    private static let asUser = prefix(.nothing)

    private func run(_ right: Right, _ job: Job, _ arguments: [String]) throws -> Tool.Outcome {
      try Tool.run(arguments, program: job.path("swift-restore"), prefix: Self.prefix(right))
    }

    private func dump(_ job: Job, _ options: [String] = []) throws {
      try job.dump(program: job.path("swift-restore"), prefix: Self.prefix(.checkpointRestore), options)
    }

    @Test(
      arguments: [
        "tree", "threads", "pipes", "fifos", "memfd", "map_shared_anon", "map_deleted", "posix_timers",
        "sig_pending", "epolls", "fd_shared", "mlock", "restart_sleep", "regs_fpu", "mem_patchwork",
      ], Right.allCases)
    func ownTreesComeBack(_ name: String, _ right: Right) throws {
      let verdict = try LiveProgram(name: name).run(prefix: Self.asUser, prepare: Self.prepare) { job in
        try dump(job)
        let options = right == .nothing ? ["--new-pid-namespace"] : []
        let outcome = try run(right, job, ["restore", "-D", job.images, "-d"] + options)
        guard outcome.code == 0 else { throw LiveFailure("restore exits \(outcome.code): \(outcome.errors)") }
      }
      #expect(verdict == .pass)
    }

    /// The new PID namespace belongs to a user namespace in which the user is itself; nobody in it has a capability.
    @Test func treeLivesInItsOwnUserNamespace() throws {
      try Job.run(Self.asUser + ["sleep", "1000"], named: "userns", prepare: Self.prepare) { job in
        _ = Processes.poll(5) { Files.text("/proc/\(job.pid)/comm") == "sleep\n" }
        let before = fields(of: job.pid)
        try dump(job)
        let outcome = try run(
          .nothing, job, ["restore", "-D", job.images, "-d", "--new-pid-namespace", "--pidfile", job.path("pid")])
        #expect(outcome.code == 0, "\(outcome.errors)")
        let root = pid_t(try job.text("pid")) ?? 0
        #expect(LiveTree.numbers("NSpid", of: root) == [root, job.pid])
        #expect(fields(of: root) == before)
        let map = Files.text("/proc/\(root)/uid_map")?.split(separator: " ", omittingEmptySubsequences: true)
        #expect(map?.joined(separator: " ") == "12345 12345 1\n")
        let parent = LiveTree.numbers("PPid", of: root).first ?? 0
        #expect(Files.text("/proc/\(parent)/comm") == "restore-init\n")
        #expect(fields(of: parent).contains("CapEff:\t0000000000000000"))
        kill(parent, SIGKILL)
        #expect(Processes.poll(5) { Processes.state(of: root) ?? "Z" == "Z" })
      }
    }

    private func fields(of pid: pid_t) -> [Substring] {
      (Files.text("/proc/\(pid)/status") ?? "").split(separator: "\n").filter {
        $0.hasPrefix("Uid") || $0.hasPrefix("Gid") || $0.hasPrefix("Groups") || $0.hasPrefix("Cap")
      }
    }

    /// A file's capability reaches the tool only; the tree has to be made by processes that have it too.
    @Test func capabilityOfTheFile() throws {
      try Job.run(Self.asUser + ["sleep", "1000"], named: "filecap", prepare: Self.prepare) { job in
        _ = Processes.poll(5) { Files.text("/proc/\(job.pid)/comm") == "sleep\n" }
        let setcap = try Processes.start(
          ["setcap", "cap_checkpoint_restore+ep", job.path("swift-restore")], in: "/", output: "/dev/null", errors: "/dev/null",
          newSession: false)
        guard Processes.wait(for: setcap, seconds: 5)?.code == 0 else { throw LiveFailure("setcap failed") }
        let before = fields(of: job.pid)
        try job.dump(program: job.path("swift-restore"), prefix: Self.asUser, [])
        let outcome = try run(.nothing, job, ["restore", "-D", job.images, "-d"])
        #expect(outcome.code == 0, "\(outcome.errors)")
        #expect(fields(of: job.pid) == before)
      }
    }

    /// Without any right, and without a namespace, nothing is begun.
    @Test func nothingAtAllIsRefused() throws {
      try Job.run(Self.asUser + ["sleep", "1000"], named: "nothing", prepare: Self.prepare) { job in
        _ = Processes.poll(5) { Files.text("/proc/\(job.pid)/comm") == "sleep\n" }
        try dump(job)
        let outcome = try run(.nothing, job, ["restore", "-D", job.images, "-d"])
        #expect(outcome.code == 1)
        #expect(outcome.errors.contains("--new-pid-namespace"), "\(outcome.errors)")
        try job.expectNothingLeft()
      }
    }

    /// What root gave a tree is named, all of it at once; what is accepted is as the user has it.
    @Test(arguments: Right.allCases)
    func whatCannotBeSetBackIsNamed(_ right: Right) throws {
      let privileged =
        ["prlimit", "--nofile=3000:3000", "ionice", "-c", "1", "nice", "-n", "-5", "chrt", "-r", "10"]
        + Self.prefix(.nothing, groups: "--groups=27,100") + ["sleep", "1000"]
      try Job.run(privileged, named: "privileged", prepare: Self.prepare) { job in
        _ = Processes.poll(5) { Files.text("/proc/\(job.pid)/comm") == "sleep\n" }
        try dump(job)
        let options = ["restore", "-D", job.images, "-d"] + (right == .nothing ? ["--new-pid-namespace"] : [])
        let limited = ["prlimit", "--nofile=2000:2000"] + Self.prefix(right)
        let program = job.path("swift-restore")
        let refusal = try Tool.run(options, program: program, prefix: limited)
        #expect(refusal.code == 1)
        for word in ["RLIMIT_NOFILE 3000", "nice value -5", "SCHED_RR", "real-time I/O", "groups 27,100", "--unprivileged"] {
          #expect(refusal.errors.contains(word), "\(word) is not in \(refusal.errors)")
        }
        try job.expectNothingLeft()
        let restore = try Tool.run(
          options + ["--unprivileged", "-v", "--pidfile", job.path("pid")], program: program, prefix: limited)
        #expect(restore.code == 0, "\(restore.errors)")
        #expect(restore.errors.contains("groups 27,100"), "\(restore.errors)")
        let root = pid_t(try job.text("pid")) ?? 0
        let limits = Files.text("/proc/\(root)/limits") ?? ""
        #expect(limits.split(separator: "\n").contains { $0.hasPrefix("Max open files") && $0.contains("2000") })
        #expect(!fields(of: root).contains { $0.hasPrefix("Groups:") && $0.contains("27") })
      }
    }

    /// What root has opened for the tree is named beforehand too, and cannot be left out.
    @Test func filesOfOthersAreNamed() throws {
      let script = "exec 5>secret; exec \(Self.asUser.joined(separator: " ")) sleep 1000"
      try Job.run(["sh", "-c", script], named: "secret", prepare: Self.prepare) { job in
        _ = Processes.poll(5) { Files.text("/proc/\(job.pid)/comm") == "sleep\n" }
        try dump(job)
        let outcome = try run(.checkpointRestore, job, ["restore", "-D", job.images, "-d", "--unprivileged"])
        #expect(outcome.code == 1)
        #expect(outcome.errors.contains("secret: this user may not open it for writing"), "\(outcome.errors)")
        try job.expectNothingLeft()
      }
    }

    /// A sandbox is never left out.
    @Test func seccompIsNotLeftOut() throws {
      try LiveProgram(name: "seccomp_filter").run(prepare: Self.prepare) { job in
        try job.dump()
        for path in Files.names(job.images).map({ "\(job.images)/\($0)" }) + [job.images] { chown(path, 12345, 12345) }
        let outcome = try run(.checkpointRestore, job, ["restore", "-D", job.images, "-d", "--unprivileged"])
        #expect(outcome.code == 1)
        #expect(outcome.errors.contains("seccomp"), "\(outcome.errors)")
        try job.expectNothingLeft()
        try job.restore()
      }
    }

    /// Limits of the machine that the tree is above, by a privilege that it had once: named beforehand.
    @Test func limitsOfTheMachineAreNamed() throws {
      let file = "/proc/sys/fs/pipe-max-size"
      let limit = try #require(Files.text(file))
      try #require((Int(limit.dropLast()) ?? 0) < 2 << 20)
      defer { try? Files.write(limit, to: file) }
      try Files.write("\(2 << 20)", to: file)
      let verdict = try LiveProgram(name: "fixtures/beyond_limits").run(prepare: Self.prepare) { job in
        try Files.write(limit, to: file)
        // Who dumps a pipe opens it by its owner's rights.
        try job.dump()
        for path in Files.names(job.images).map({ "\(job.images)/\($0)" }) + [job.images] { chown(path, 12345, 12345) }
        let options = ["restore", "-D", job.images, "-d"]
        let refusal = try run(.checkpointRestore, job, options)
        #expect(refusal.code == 1)
        for word in ["pipe", "fifo", "2097152", file, "CAP_SYS_RESOURCE", "vm.mmap_min_addr", "CAP_SYS_RAWIO"] {
          #expect(refusal.errors.contains(word), "\(word) is not in \(refusal.errors)")
        }
        try job.expectNothingLeft()
        // Memory cannot be left out.
        let other = try run(.checkpointRestore, job, options + ["--unprivileged"])
        #expect(other.code == 1)
        #expect(other.errors.contains("CAP_SYS_RAWIO") && !other.errors.contains("CAP_SYS_RESOURCE"), "\(other.errors)")
        try job.expectNothingLeft()
        try job.restore("--unprivileged")
      }
      #expect(verdict == .pass)
    }

    /// What cannot be copied, nor be put back, for more is in a pipe than it may have.
    @Test func pipeThatIsTooFullIsNamed() throws {
      let file = "/proc/sys/fs/pipe-max-size"
      let limit = try #require(Files.text(file))
      defer { try? Files.write(limit, to: file) }
      try Files.write("\(2 << 20)", to: file)
      let without = ["setpriv", "--bounding-set=-sys_resource", "--"]
      try LiveProgram(name: "fixtures/beyond_limits").run(environment: ["FULL": "1"], prepare: Self.prepare) { job in
        try Files.write(limit, to: file)
        let dump = try job.tryDump(prefix: without)
        #expect(dump.code == 1)
        #expect(dump.errors.contains("pipe:[") && dump.errors.contains(file), "\(dump.errors)")
        try Files.write("\(2 << 20)", to: file)
        try job.dump()
        try Files.write(limit, to: file)
        let restore = try job.tryRestore(["--unprivileged"], prefix: without)
        #expect(restore.code == 1)
        #expect(restore.errors.contains("2097152 bytes of room") && restore.errors.contains(file), "\(restore.errors)")
        try job.expectNothingLeft()
        try Files.write("\(2 << 20)", to: file)
        try job.restore()
      }
    }

    @Test func checkSaysWhatAUserCanDo() throws {
      let folder = try Files.makeTemporaryFolder("check")
      defer { Files.remove(folder) }
      try Self.prepare(folder)
      let nothing = try Tool.run(["check"], program: folder + "/swift-restore", prefix: Self.prefix(.nothing))
      #expect(nothing.code == 1)
      #expect(nothing.errors.contains("restore works with --new-pid-namespace only"), "\(nothing.errors)")
      let one = try Tool.run(["check"], program: folder + "/swift-restore", prefix: Self.prefix(.checkpointRestore))
      #expect(one.code == 0, "\(one.errors)")
    }
  }
}
