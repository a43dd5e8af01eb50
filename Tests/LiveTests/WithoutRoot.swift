import Glibc
import Testing

extension Live {
  /// What users other than root can do: with CAP_CHECKPOINT_RESTORE alone all that is theirs, with nothing at all a restore in
  /// namespaces of their own. The tool and the tree really run as another user.
  @Suite struct WithoutRoot {
    private static let user = "12345"

    enum Right: String, CaseIterable, CustomTestStringConvertible {
      /// CAP_CHECKPOINT_RESTORE: ambient, or of the tool's file.
      case checkpointRestore, ofTheFile
      case nothing
      var testDescription: String { rawValue }
      var options: [String] { self == .nothing ? ["--new-pid-namespace"] : [] }
    }

    /// Runs a command as the other user, with one capability or none.
    private static func prefix(_ right: Right, groups: String = "--clear-groups") -> [String] {
      let caps = right == .checkpointRestore ? "-all,+checkpoint_restore" : "-all"
      return [
        "setpriv", "--reuid", user, "--regid", user, groups, "--inh-caps", caps, "--ambient-caps", caps, "--",
      ]
    }

    /// The folder is the user's, with copies of the tool: he may not be let in to where that was built.
    private static func prepare(_ folder: String) throws {
      guard let tool = Files.bytes(Tool.path) else { throw LiveFailure("no \(Tool.path)") }
      for right in [Right.nothing, .ofTheFile] { try Files.write(tool, to: program(right, in: folder), mode: 0o755) }
      let setcap = try Processes.start(
        ["setcap", "cap_checkpoint_restore+ep", program(.ofTheFile, in: folder)], in: "/", output: "/dev/null", errors: "/dev/null",
        newSession: false)
      guard Processes.wait(for: setcap, seconds: 5)?.code == 0 else { throw LiveFailure("setcap failed") }
      let id = uid_t(user) ?? 0
      chown(folder, id, id)
      chmod(folder, 0o755)
    }

    private static func program(_ right: Right, in folder: String) -> String {
      folder + (right == .ofTheFile ? "/capable-restore" : "/swift-restore")
    }

    private static let asUser = prefix(.nothing)

    private func run(_ right: Right, _ job: Job, _ arguments: [String]) throws -> Tool.Outcome {
      try Tool.run(arguments, program: Self.program(right, in: job.folder), prefix: Self.prefix(right))
    }

    /// Who has no right cannot dump.
    private func dump(_ job: Job, by right: Right = .nothing, _ options: [String] = []) throws {
      let right = right == .nothing ? .checkpointRestore : right
      try job.dump(program: Self.program(right, in: job.folder), prefix: Self.prefix(right), options)
    }

    @Test(
      arguments: [
        "tree", "threads", "pipes", "fifos", "memfd", "map_shared_anon", "map_deleted", "posix_timers",
        "sig_pending", "epolls", "fd_shared", "mlock", "restart_sleep", "regs_fpu", "mem_patchwork",
      ], Right.allCases)
    func ownTreesComeBack(_ name: String, _ right: Right) throws {
      let verdict = try LiveProgram(name: name).run(prefix: Self.asUser, prepare: Self.prepare) { job in
        try dump(job, by: right)
        let outcome = try run(right, job, ["restore", "-D", job.images, "-d"] + right.options)
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

    /// A shell with a job in the background goes on, and its children are its user's, with nothing that they did not have.
    @Test(arguments: Right.allCases) func shellGoesOn(_ right: Right) throws {
      let script = "set -m; sleep 1000 & touch ready; until [ -e go ]; do sleep 0.05; done; jobs | tr -s ' '; kill %1; wait %1; echo $?"
      try Job.run(Self.asUser + ["bash", "-c", script], named: "shell", prepare: Self.prepare) { job in
        try job.waitFor("ready")
        let before = fields(of: job.pid)
        for _ in 1...2 {
          try dump(job, by: right)
          let outcome = try run(right, job, ["restore", "-D", job.images, "-d", "--pidfile", job.path("pid.\(job.count)")] + right.options)
          try #require(outcome.code == 0, "\(outcome.errors)")
          let root = pid_t(try job.text("pid.\(job.count)")) ?? 0
          #expect(fields(of: root) == before)
          // What lives in a user namespace cannot be dumped yet.
          if right == .nothing { break }
          #expect(root == job.pid)
        }
        try Files.write("", to: job.path("go"))
        guard Processes.poll(10, { (try? job.text("out").hasSuffix("143\n")) ?? false }) else {
          throw LiveFailure("it says \(try job.text("out"))\(try job.text("err"))")
        }
        #expect(try job.text("out") == "[1]+ Running sleep 1000 &\n143\n")
      }
    }

    /// The kernel's EPERM alone helps nobody: the capability is named, and nothing has been touched.
    @Test(arguments: [
      // Whose tool, without which capabilities, and whose tree.
      (user, "all", user, "CAP_CHECKPOINT_RESTORE"), (user, "all", "0", "CAP_CHECKPOINT_RESTORE"),
      (user, "all,+checkpoint_restore", "0", "CAP_SYS_PTRACE"), ("0", "sys_ptrace", user, "CAP_SYS_PTRACE"),
      ("0", "sys_ptrace", "0", "CAP_SYS_PTRACE"), ("0", "sys_admin,-checkpoint_restore", "0", "CAP_CHECKPOINT_RESTORE"),
      ("0", "dac_override,-dac_read_search", user, "CAP_DAC_READ_SEARCH"),
    ])
    func missingCapabilityIsNamedAtDump(_ who: String, _ missing: String, _ owner: String, _ capability: String) throws {
      try Job.run(Self.setpriv(owner, "none") + ["sleep", "1000"], named: "lack", prepare: Self.prepare) { job in
        _ = Processes.poll(5) { Files.text("/proc/\(job.pid)/comm") == "sleep\n" }
        let images = job.path("new")
        let outcome = try Tool.run(
          ["dump", "-t", "\(job.pid)", "-D", images], program: job.path("swift-restore"), prefix: Self.setpriv(who, missing))
        #expect(outcome.code == 1)
        #expect(outcome.errors.contains(capability), "\(outcome.errors)")
        #expect(!Files.exists(images))
        #expect(["S", "R"].contains(Processes.state(of: job.pid)))
      }
    }

    @Test(arguments: [
      ("sys_ptrace", user, "CAP_SYS_PTRACE"), ("setuid", user, "CAP_SETUID"), ("setgid", user, "CAP_SETGID"),
      ("sys_admin,-checkpoint_restore", "0", "CAP_CHECKPOINT_RESTORE"), ("net_raw", "0", "cap_net_raw"),
    ])
    func missingCapabilityIsNamedAtRestore(_ missing: String, _ owner: String, _ capability: String) throws {
      try Job.run(Self.setpriv(owner, "none") + ["sleep", "1000"], named: "lack", prepare: Self.prepare) { job in
        _ = Processes.poll(5) { Files.text("/proc/\(job.pid)/comm") == "sleep\n" }
        try job.dump()
        let outcome = try job.tryRestore(prefix: Self.setpriv("0", missing))
        #expect(outcome.code == 1)
        #expect(outcome.errors.contains(capability) && !outcome.errors.contains("EPERM"), "\(outcome.errors)")
        try job.expectNothingLeft()
        if missing == "net_raw" {
          let accepted = try job.tryRestore(["--unprivileged"], prefix: Self.setpriv("0", missing))
          #expect(accepted.code == 0 && fields(of: job.pid).contains { $0.hasPrefix("CapEff") }, "\(accepted.errors)")
          // What was left out is not read again from the images, as it would be of one of thousands (RestoredTask.rest).
          try job.dump()
          let large = try job.tryRestore(["--unprivileged"], prefix: ["env", "SWIFT_RESTORE_LARGE=0"] + Self.setpriv("0", missing))
          #expect(large.code == 0, "\(large.errors)")
        } else {
          try job.restore()
        }
      }
    }

    /// Runs a command as a user; root without some capabilities, others with those that are given back after all.
    private static func setpriv(_ user: String, _ missing: String) -> [String] {
      if missing == "none" { return user == "0" ? [] : asUser }
      if user == "0" { return ["setpriv", "--inh-caps=-all", "--bounding-set=-\(missing)", "--"] }
      return [
        "setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--inh-caps=-\(missing)", "--ambient-caps=-\(missing)", "--",
      ]
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
        let options = ["restore", "-D", job.images, "-d"] + right.options
        let limited = ["prlimit", "--nofile=2000:2000"] + Self.prefix(right)
        let program = Self.program(right, in: job.folder)
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
