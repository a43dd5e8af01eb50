import Glibc
import ProcessTree
import Testing

extension Live {
  /// What cannot be dumped or restored is said clearly, with exit 1; the tree is unharmed, or nothing is left behind.
  /// These claims are swift-restore's own: CRIU fails some of them.
  @Suite struct BadInput {
    // MARK: wrong usage

    @Test(arguments: [
      ["frobnicate"], ["dump"], ["dump", "-D", "/tmp"], ["dump", "-t", "many", "-D", "/tmp"],
      ["dump", "-t", "1", "-D", "/tmp", "--wrong"],
      ["dump", "-t", "-5", "-D", "/tmp"], ["restore", "--wrong"], ["restore", "-v", "x"], ["show"], [], ["dump", "-t", "1", "-o"],
      ["dump", "-t", ""], ["dump", "-t", "1", "--timeout=-1"],
      ["restore", "--pid-retries=-1"],
    ])
    func wrongUsageExits64(_ arguments: [String]) throws {
      let outcome = try Tool.run(arguments)
      #expect(outcome.code == 64)
      #expect(!outcome.errors.isEmpty)
    }

    // MARK: what cannot be dumped

    /// A refusal: exit 1, a cause that contains `words`, nothing on stdout, and no folder that looks like a checkpoint.
    private func expectRefusal(_ outcome: Tool.Outcome, naming words: [String], images: String? = nil) {
      #expect(outcome.code == 1, "\(outcome.errors)")
      #expect(outcome.output.isEmpty)
      let errors = outcome.errors.lowercased()
      let missing = words.filter { !errors.contains($0.lowercased()) }
      #expect(missing.isEmpty, "not named in: \(outcome.errors)")
      // The cause, perhaps with a list of objects, and then what to do.
      let lines = outcome.errors.split(separator: "\n")
      #expect(lines.count >= 2 && lines[0].hasPrefix("swift-restore: ") && lines[lines.count - 1].hasPrefix("  "), "\(outcome.errors)")
      if let images { #expect(!Files.exists(images + "/inventory.img")) }
    }

    private func refuseToDump(_ pid: pid_t, naming words: [String], prefix: [String] = []) throws {
      let folder = try Files.makeTemporaryFolder("refused")
      defer { Files.remove(folder) }
      let outcome = try Tool.run(["dump", "-t", "\(pid)", "-D", folder], prefix: prefix)
      expectRefusal(outcome, naming: words, images: folder)
    }

    @Test func processThatDoesNotExist() throws {
      let pid = try Processes.start(
        ["true"], in: "/", output: "/dev/null", errors: "/dev/null", newSession: false)
      _ = Processes.wait(for: pid, seconds: 5)
      try refuseToDump(pid, naming: ["\(pid)"])
    }

    @Test func zombie() throws {
      let pid = try Processes.start(
        ["true"], in: "/", output: "/dev/null", errors: "/dev/null", newSession: true)
      defer { _ = Processes.wait(for: pid, seconds: 5) }
      _ = Processes.poll(5) { Processes.state(of: pid) == "Z" }
      try refuseToDump(pid, naming: ["\(pid)", "zombie"])
    }

    private static let aKernelThread: pid_t? = Files.names("/proc").compactMap { pid_t($0) }.first { pid in
      guard let stat = Files.text("/proc/\(pid)/stat"), let end = stat.lastIndex(of: ")"),
        let flags = Int(stat[end...].split(separator: " ")[7])
      else { return false }
      return flags & 0x0020_0000 /* PF_KTHREAD */ != 0
    }

    @Test(.enabled(if: BadInput.aKernelThread != nil, "no kernel thread can be seen from this PID namespace"))
    func kernelThread() throws {
      let pid = try #require(Self.aKernelThread)
      try refuseToDump(pid, naming: ["\(pid)", "kernel thread"])
    }

    @Test func ownAncestor() throws {
      try refuseToDump(getpid(), naming: ["\(getpid())", "ancestor"])
    }

    @Test func tracedProcess() throws {
      try LiveProgram(name: "fixtures/traced").run { job in
        let child = try #require(pid_t(try job.text("base.child")))
        try refuseToDump(child, naming: ["\(child)", "traced"])
        // As a part of the tree too.
        expectRefusal(try job.tryDump(), naming: ["\(child)", "traced"], images: job.images)
      }
    }

    @Test func processOfAnotherUserWithoutPrivilege() throws {
      try LiveProgram(name: "threads").run { job in
        let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        try refuseToDump(job.pid, naming: ["CAP_CHECKPOINT_RESTORE"], prefix: user)
        let right = ["--inh-caps=+checkpoint_restore", "--ambient-caps=+checkpoint_restore"]
        try refuseToDump(job.pid, naming: ["\(job.pid)", "EPERM"], prefix: user + right)
      }
    }

    @Test func everythingUnsupportedIsNamedAtOnce() throws {
      try LiveProgram(name: "fixtures/refused").run { job in
        let outcome = try job.tryDump()
        expectRefusal(outcome, naming: ["io_uring", "userfaultfd"], images: job.images)
        for pid in job.tree { #expect(outcome.errors.contains("\(pid)"), "\(outcome.errors)") }
      }
    }

    @Test(arguments: [
      ("leader", "its main thread has exited"), ("sud", "(syscall-user-dispatch)"), ("mdwe", "(mdwe)"), ("vfork", "child of vfork"),
    ])
    func peculiarProcesses(_ kind: String, _ words: String) throws {
      try LiveProgram(name: "fixtures/peculiar").run(environment: ["KIND": kind]) { job in
        expectRefusal(try job.tryDump(["--timeout", "1"]), naming: ["\(job.pid)", words], images: job.images)
      }
    }

    @Test func threadThatLeftANamespace() throws {
      try LiveProgram(name: "fixtures/thread_namespace").run { job in
        expectRefusal(try job.tryDump(), naming: ["lives in another namespace than its process", "(net-ns)"], images: job.images)
      }
    }

    /// A file in /proc tells of one process: of the tree, that is well; others cannot be had again.
    @Test func filesInProcOfOtherProcesses() throws {
      let script = "sleep 0.1 & p=$!; exec 5</proc/$p/status; wait; exec 6</proc/1/status; exec sleep 1000"
      try Job.run(["sh", "-c", script], named: "procfs") { job in
        usleep(400_000)
        expectRefusal(try job.tryDump(), naming: ["has ended (procfs)", "process 1, which is not of the tree (procfs)"])
      }
    }

    /// All three kinds; the first is held by a description whose locker is dead.
    @Test func fileLocks() throws {
      let script = """
        import fcntl, os, signal, time
        held, bytes, leased = open('held', 'w'), open('bytes', 'w'), None
        if os.fork() == 0:
            fcntl.flock(held, fcntl.LOCK_EX)
            os._exit(0)
        os.wait()
        fcntl.lockf(bytes, fcntl.LOCK_EX)
        childs = open('childs', 'w')
        if os.fork() == 0:
            fcntl.lockf(childs, fcntl.LOCK_EX)
            open('locked', 'w').close()
            signal.pause()
        while not os.path.exists('locked'):
            time.sleep(0.01)
        open('leased', 'w').close()
        leased = open('leased')
        fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        free = open('free', 'w')
        open('ready', 'w').close()
        signal.pause()
        """
      try Job.run(["python3", "-c", script], named: "locks") { job in
        _ = Processes.poll(10) { Files.exists(job.path("ready")) }
        // One that somebody else has on a file is not the tree's.
        let others = open(job.path("free"), O_WRONLY)
        defer { close(others) }
        var lock = flock(l_type: Int16(F_WRLCK), l_whence: 0, l_start: 0, l_len: 0, l_pid: 0)
        #expect(fcntl(others, F_SETLK, &lock) == 0)
        let outcome = try job.tryDump()
        expectRefusal(
          outcome, naming: ["held: a file lock (file-locks)", "bytes: a file lock", "childs: a file lock", "leased: a file lock"])
        #expect(!outcome.errors.contains("free"), "\(outcome.errors)")
      }
    }

    // MARK: the work folder

    @Test func logsStatisticsAndPidfileGoToTheWorkFolder() throws {
      try Job.run(["sleep", "1000"], named: "work") { job in
        usleep(50_000)
        let work = job.path("work")
        mkdir(work, 0o755)
        try job.dump("-W", work, "--timeout", "9223372036854775807")
        #expect(Files.names(work) == ["dump.log", "stats-dump"])
        #expect(!Files.names(job.images).contains("stats-dump") && Files.exists(job.images + "/inventory.img"))
        let images = Files.names(job.images)
        try job.restore("-W", work, "--pidfile", "pid")
        #expect(Files.names(work) == ["dump.log", "pid", "restore.log", "stats-dump", "stats-restore"])
        #expect(Files.names(job.images) == images)
        #expect(Files.text(work + "/pid") == "\(job.pid)")
      }
    }

    /// Found out before there is a tree; and a restore that fails leaves none behind.
    @Test func pidfileThatCannotBeWritten() throws {
      try withDumpedSleep { job in
        expectRefusal(try job.tryRestore(["--pidfile", "no/where"]), naming: ["pidfile", "ENOENT"])
        try job.expectNothingLeft()
        try job.restore("--pidfile", "pid")
        #expect(Files.text(job.images + "/pid") == "\(job.pid)")
        expectRefusal(try job.tryRestore(["--pidfile", "second"]), naming: ["EEXIST"])
        #expect(!Files.exists(job.images + "/second"))
      }
    }

    // MARK: what a tool may be started with

    /// Ignored SIGCHLD, closed standard descriptors, a umask that forbids everything.
    @Test func startedFromAnOddPlace() throws {
      try Job.run(["sleep", "1000"], named: "odd") { job in
        usleep(50_000)
        let odd = ["sh", "-c", "trap '' CHLD HUP USR1; umask 0777; exec \"$@\" <&- >&- 2>&-", "sh"]
        for _ in 1...2 {
          let dumped = try job.tryDump(prefix: odd)
          #expect(dumped.code == 0, "\(Files.text(job.images + "/dump.log") ?? "")")
          try job.expectGone()
          let restored = try job.tryRestore(prefix: odd)
          #expect(restored.code == 0, "\(Files.text(job.images + "/restore.log") ?? "")")
        }
        #expect(try job.tryRestore(prefix: odd).code == 1)
        #expect((Files.text(job.images + "/restore.log") ?? "").contains("EEXIST"))
      }
    }

    // MARK: folders that cannot take images

    /// A small tmpfs, for as long as `body` runs.
    private func withSmallDisk(_ options: String, _ body: (String) throws -> Void) throws {
      let folder = try Files.makeTemporaryFolder("disk")
      defer { Files.remove(folder) }
      try Files.withTmpfs(at: folder, size: "64k") {
        if options == "ro" { _ = mount("none", folder, "tmpfs", UInt(MS_REMOUNT | MS_RDONLY), "size=64k") }
        try body(folder)
      }
    }

    @Test func missingFolder() throws {
      try LiveProgram(name: "threads").run { job in
        expectRefusal(
          try job.tryDump(to: "/tmp/live.nowhere/at/all"), naming: ["ENOENT", "/tmp/live.nowhere/at/all"])
      }
    }

    @Test func folderThatIsAFile() throws {
      try LiveProgram(name: "threads").run { job in
        expectRefusal(try job.tryDump(to: job.path("base")), naming: ["ENOTDIR"])
      }
    }

    @Test func unwritableFolder() throws {
      try withSmallDisk("ro") { disk in
        try LiveProgram(name: "threads").run { job in
          expectRefusal(try job.tryDump(to: disk), naming: ["EROFS", disk])
        }
      }
    }

    @Test func fullDisk() throws {
      try withSmallDisk("") { disk in
        try LiveProgram(name: "mem_big").run { job in
          expectRefusal(try job.tryDump(to: disk), naming: ["ENOSPC"], images: disk)
        }
      }
    }

    @Test func folderThatHoldsACheckpoint() throws {
      try LiveProgram(name: "threads").run { job in
        try job.dump("--leave-running")
        let images = job.images
        let before = Files.names(images).map { Files.bytes("\(images)/\($0)") }
        expectRefusal(try job.tryDump(to: images), naming: [images])
        let after = Files.names(images).filter { !$0.hasSuffix(".log") }.map {
          Files.bytes("\(images)/\($0)")
        }
        #expect(
          before.count >= after.count && after.allSatisfy { bytes in before.contains { $0 == bytes } },
          "it was changed")
      }
    }

    // MARK: images that are not whole

    /// A process that only sleeps, dumped. `body` spoils the images; `job.tree` are the PIDs that must stay free.
    private func withDumpedSleep(_ body: (Job) throws -> Void) throws {
      try Job.run(["sleep", "1000"], named: "sleep") { job in
        usleep(50_000)
        try job.dump()
        try body(job)
      }
    }

    @Test func restoreFromAMissingFolder() throws {
      expectRefusal(
        try Tool.run(["restore", "-D", "/tmp/live.nowhere", "-d"]), naming: ["ENOENT", "/tmp/live.nowhere"])
      expectRefusal(
        try Tool.run(["restore", "-D", "/tmp/live.nowhere", "-d", "-o", "log"]), naming: ["ENOENT", "/tmp/live.nowhere"])
      #expect(!Files.exists("/tmp/live.nowhere"))
    }

    @Test func restoreWithoutInventory() throws {
      try withDumpedSleep { job in
        unlink(job.images + "/inventory.img")
        expectRefusal(try job.tryRestore(), naming: ["inventory.img"])
        try job.expectNothingLeft()
      }
    }

    /// Also those that a restore can do without: the inventory knows that they were there.
    @Test func imagesThatAreGone() throws {
      try withDumpedSleep { job in
        for name in imageNames(job) {
          let path = "\(job.images)/\(name)"
          let whole = try #require(Files.bytes(path))
          unlink(path)
          expectRefusal(try job.tryRestore(), naming: [name])
          try job.expectNothingLeft()
          try Files.write(whole, to: path)
        }
        try job.restore()
      }
    }

    /// Names of the images that a restore reads.
    private func imageNames(_ job: Job) -> [String] {
      Files.names(job.images).filter { $0.hasSuffix(".img") && !$0.hasPrefix("stats-") }
    }

    @Test func imagesCutShort() throws {
      try withDumpedSleep { job in
        var wrong: [String] = []
        for name in imageNames(job) {
          let path = "\(job.images)/\(name)"
          let whole = try #require(Files.bytes(path))
          // Every length where a header ends or begins, and a spread of others.
          let lengths = Set(
            [0, 1, 3, 4, 7, 8, 11, 12] + (1...8).map { whole.count * $0 / 9 } + [whole.count - 1])
          for length in lengths.sorted() where length < whole.count {
            try Files.write(whole[..<length], to: path)
            let outcome = try job.tryRestore(["--no-verify"])
            // A cut between two entries of a list cannot always be seen; a restore that succeeds is ended.
            let isWrong =
              outcome.code != 1 && (outcome.code != 0 || length < 8)
              || outcome.code == 1 && outcome.errors.isEmpty
            if isWrong {
              wrong.append(
                "\(name) cut at \(length) of \(whole.count): exit \(outcome.code) \(outcome.errors)")
            }
            if outcome.code == 0 { job.endAll() }
            try job.expectNothingLeft()
          }
          try Files.write(whole, to: path)
        }
        #expect(wrong.isEmpty)
        try job.restore()
      }
    }

    /// A flipped bit may change what is restored, but never more: no crash, no hang, nothing left after a refusal.
    @Test func imagesWithAFlippedBit() throws {
      try withDumpedSleep { job in
        var random = SplitMix64(seed: 20)
        var wrong: [String] = []
        for name in imageNames(job) where !name.hasPrefix("pages-") {
          let path = "\(job.images)/\(name)"
          let whole = try #require(Files.bytes(path))
          for _ in 0..<12 {
            var spoiled = whole
            let bit = Int(random.next() % UInt64(whole.count * 8))
            spoiled[bit / 8] ^= 1 << UInt8(bit % 8)
            try Files.write(spoiled, to: path)
            // It would be found by its checksum.
            let outcome = try job.tryRestore(["--no-verify"])
            if outcome.code > 1 || outcome.code == 1 && outcome.errors.isEmpty {
              wrong.append("\(name), bit \(bit): exit \(outcome.code) \(outcome.errors)")
            }
            if outcome.code == 0 { job.endAll() }
            try job.expectNothingLeft()
          }
          try Files.write(whole, to: path)
        }
        #expect(wrong.isEmpty)
        try job.restore()
      }
    }

    /// Found by scripts/fuzz: it ended in a trap.
    @Test func taskThatIsThereTwice() throws {
      try withDumpedSleep { job in
        let path = "\(job.images)/pstree.img"
        let whole = try #require(Files.bytes(path))
        try Files.write(whole + whole.dropFirst(8), to: path)
        expectRefusal(try job.tryRestore(["--no-verify"]), naming: ["pstree.img", "\(job.pid)", "twice"])
      }
    }

    /// Checksums find it, whatever it would have done; memory only on request.
    @Test func imagesWithAFlippedBitAreNamed() throws {
      try Job.run(["sleep", "1000"], named: "sleep") { job in
        usleep(50_000)
        try job.dump("--checksum-memory")
        var random = SplitMix64(seed: 7)
        for name in imageNames(job) where name != "inventory.img" {
          let path = "\(job.images)/\(name)"
          let whole = try #require(Files.bytes(path))
          var spoiled = whole
          let bit = Int(random.next() % UInt64(whole.count * 8))
          spoiled[bit / 8] ^= 1 << UInt8(bit % 8)
          try Files.write(spoiled, to: path)
          expectRefusal(try job.tryRestore(["--verify-memory"]), naming: [name])
          let checked = try Tool.run(["check", "-D", job.images])
          expectRefusal(checked, naming: ["\(name): is damaged"])
          unlink(path)
          expectRefusal(try Tool.run(["check", "-D", job.images]), naming: [name, "ENOENT"])
          try Files.write(whole, to: path)
        }
        #expect(try Tool.run(["check", "-D", job.images]).code == 0)
        try job.restore("--verify-memory")
      }
    }

    // MARK: files that are not what they were

    enum Change: CaseIterable { case gone, shorter, longer }

    @Test(arguments: Change.allCases)
    func openFileThatChanged(_ change: Change) throws {
      try Job.run(
        ["sh", "-c", "exec sleep 1000 5<data"], named: "data",
        prepare: { try Files.write("0123456789", to: $0 + "/data") }
      ) { job in
        usleep(100_000)
        try job.dump()
        switch change {
        case .gone: unlink(job.path("data"))
        case .shorter: try Files.write("01234", to: job.path("data"))
        case .longer: try Files.write("0123456789abcdef", to: job.path("data"))
        }
        expectRefusal(try job.tryRestore(), naming: [job.path("data")])
        try job.expectNothingLeft()
        try Files.write("0123456789", to: job.path("data"))
        try job.restore()
      }
    }

    /// A named pipe has its content in the images; its name is the machine's.
    @Test func namedPipeThatIsGone() throws {
      try Job.run(["sh", "-c", "exec sleep 1000 5<>fifo"], named: "fifo", prepare: { _ = mkfifo($0 + "/fifo", 0o600) }) { job in
        _ = Processes.poll(5) { Files.text("/proc/\(job.pid)/comm") == "sleep\n" }
        try job.dump()
        unlink(job.path("fifo"))
        expectRefusal(try job.tryRestore(), naming: [job.path("fifo"), "ENOENT", "named pipe"])
        try job.expectNothingLeft()
        try Files.write("", to: job.path("fifo"))
        expectRefusal(try job.tryRestore(), naming: [job.path("fifo"), "another type"])
        unlink(job.path("fifo"))
        mkfifo(job.path("fifo"), 0o600)
        try job.restore()
      }
    }

    /// There as it was, but not to be opened: the task itself finds out.
    @Test func fileThatCannotBeOpened() throws {
      func mountData(_ folder: String, _ flags: Int) { _ = mount("none", folder + "/mnt", "tmpfs", UInt(flags), "") }
      let prepare = { (folder: String) in
        mkdir(folder + "/mnt", 0o755)
        mountData(folder, 0)
      }
      try Job.run(["sh", "-c", "exec sleep 1000 3>>mnt/data"], named: "read-only", prepare: prepare) { job in
        defer { umount2(job.path("mnt"), Int32(MNT_DETACH)) }
        _ = Processes.poll(5) { Files.text("/proc/\(job.pid)/comm") == "sleep\n" }
        try job.dump()
        mountData(job.folder, MS_REMOUNT | MS_RDONLY)
        expectRefusal(try job.tryRestore(), naming: [job.path("mnt/data"), "openat2", "EROFS"])
        try job.expectNothingLeft()
        mountData(job.folder, MS_REMOUNT)
        try job.restore()
      }
    }

    @Test(arguments: Change.allCases)
    func mappedFileThatChanged(_ change: Change) throws {
      let sleep = try #require(Files.bytes("/bin/sleep"))
      let install = { (folder: String) in try Files.write(sleep, to: folder + "/program", mode: 0o755) }
      try Job.run(["./program", "1000"], named: "mapped", prepare: install) { job in
        usleep(100_000)
        try job.dump()
        unlink(job.path("program"))
        switch change {
        case .gone: break
        case .shorter: try Files.write(sleep.dropLast(5000), to: job.path("program"), mode: 0o755)
        case .longer: try Files.write(sleep + [0], to: job.path("program"), mode: 0o755)
        }
        expectRefusal(try job.tryRestore(), naming: [job.path("program")])
        try job.expectNothingLeft()
        unlink(job.path("program"))
        try install(job.folder)
        try job.restore()
      }
    }

    /// Same size, another build-id: what `--file-validation buildid`, the default, is for.
    @Test func mappedFileOfAnotherBuild() throws {
      func build(_ value: Int, _ folder: String) throws {
        try Files.write(
          "#include <unistd.h>\nint main() { for (;;) sleep(\(value)); }", to: folder + "/program.c")
        let gcc = try Processes.start(
          ["gcc", "-Wl,--build-id", "-o", "program", "program.c"], in: folder, output: "/dev/null",
          errors: folder + "/gcc",
          newSession: false)
        guard Processes.wait(for: gcc, seconds: 30)?.code == 0 else { throw LiveFailure("gcc fails") }
      }
      try Job.run(["./program"], named: "buildid", prepare: { try build(1000, $0) }) { job in
        usleep(100_000)
        try job.dump()
        let before = Files.bytes(job.path("program"))?.count
        unlink(job.path("program"))
        try build(1001, job.folder)
        try #require(Files.bytes(job.path("program"))?.count == before)
        expectRefusal(try job.tryRestore(), naming: [job.path("program"), "build"])
        try job.expectNothingLeft()
        #expect(try Tool.run(["check", "-D", job.images]).code == 1)
        // It has the size, which is all that this asks for.
        #expect(try Tool.run(["check", "-D", job.images, "--file-validation", "filesize"]).code == 0)
        try Files.write(try #require(Files.bytes(job.path("program"))) + [0], to: job.path("program"))
        expectRefusal(try job.tryRestore(["--file-validation", "filesize"]), naming: [job.path("program"), "bytes"])
        #expect(try Tool.run(["check", "-D", job.images, "--file-validation", "none"]).code == 0)
      }
    }

    // MARK: PIDs

    @Test func pidInUse() throws {
      try LiveProgram(name: "tree").run { job in
        try job.cycle()
        let outcome = try job.tryRestore()
        expectRefusal(outcome, naming: ["\(job.pid)", "EEXIST"])
        // The copy that is alive goes on; LiveProgram asks it for its verdict.
      }
    }
  }
}
