import Glibc
import Testing

extension Live {
  /// Between a dump and its restore somebody who may write in a folder of the tree puts a symbolic link where a file or folder was.
  /// It is not followed, nothing is made or removed where it leads, and the restore works when it is gone.
  @Suite struct SwappedLinks {
    /// A shell that holds what the claim is about, below `inner/sub` of its folder; `outside` is where the links lead.
    private func withTree(_ script: String, _ body: (Job) throws -> Void) throws {
      let make = { (folder: String) in
        for name in ["inner", "inner/sub", "outside"] { mkdir(folder + "/" + name, 0o755) }
        try Files.write("0123456789", to: folder + "/inner/sub/data")
      }
      try Job.run(["sh", "-c", "\(script); : >ready; exec sleep 1000"], named: "swapped", prepare: make) { job in
        try job.waitFor("ready")
        usleep(100_000)
        try job.dump()
        try body(job)
      }
    }

    /// Moves `name` to `outside`, leaves a link in its place, and expects a refusal that changes nothing there.
    private func swap(_ name: String, in job: Job) throws {
      let (path, away) = (job.path(name), job.path("outside/moved"))
      rename(path, away)
      #expect(symlink(away, path) == 0)
      let before = contents(of: job.path("outside"))
      let outcome = try job.tryRestore()
      #expect(outcome.code == 1 && outcome.errors.contains("symbolic link"), "\(outcome)")
      #expect(outcome.errors.split(separator: "\n").count == 2, "\(outcome.errors)")
      try job.expectNothingLeft()
      #expect(contents(of: job.path("outside")) == before)
      unlink(path)
      rename(away, path)
    }

    private func contents(of folder: String) -> [String] {
      Files.names(folder).flatMap { name in [name] + contents(of: folder + "/" + name).map { "\(name)/\($0)" } }
    }

    @Test(arguments: ["inner/sub/data", "inner/sub", "inner"])
    func openFile(_ name: String) throws {
      try withTree("exec 5<>inner/sub/data") { job in
        try swap(name, in: job)
        try job.restore()
        #expect(Files.link("/proc/\(job.pid)/fd/5") == job.path("inner/sub/data"))
      }
    }

    @Test(arguments: ["inner/sub", "inner"])
    func workingDirectory(_ name: String) throws {
      try withTree("cd inner/sub; exec 5>../../ready 3>/dev/null; cd -; cd inner/sub; : >../../ready") { job in
        try swap(name, in: job)
        try job.restore()
        #expect(Files.link("/proc/\(job.pid)/cwd") == job.path("inner/sub"))
      }
    }

    @Test(arguments: ["inner/sub/pipe", "inner/sub"])
    func namedPipe(_ name: String) throws {
      try withTree("mkfifo inner/sub/pipe; exec 5<>inner/sub/pipe; echo kept >&5") { job in
        try swap(name, in: job)
        try job.restore()
      }
    }

    /// A file, a folder or a pipe without a name is made again where it was, for a moment, and nowhere else.
    @Test(arguments: [
      "exec 5<>inner/sub/gone; echo kept >&5; rm inner/sub/gone",
      "mkfifo inner/sub/gone; exec 5<>inner/sub/gone; rm inner/sub/gone",
      "mkdir inner/sub/gone; exec 5<inner/sub/gone; rmdir inner/sub/gone",
      "ln inner/sub/data other; exec 5<inner/sub/data; rm inner/sub/data",
    ])
    func fileWithoutAName(_ script: String) throws {
      try withTree(script) { job in
        try swap("inner/sub", in: job)
        try swap("inner", in: job)
        try job.restore()
        #expect(Files.names(job.path("inner/sub")).allSatisfy { $0 == "data" })
      }
    }

    /// A program that is run, and mapped.
    @Test func executable() throws {
      let sleep = try #require(Files.bytes("/bin/sleep"))
      let install = { (folder: String) in
        for name in ["inner", "outside"] { mkdir(folder + "/" + name, 0o755) }
        try Files.write(sleep, to: folder + "/inner/program", mode: 0o755)
      }
      try Job.run(["./inner/program", "1000"], named: "swapped", prepare: install) { job in
        usleep(100_000)
        try job.dump()
        try swap("inner/program", in: job)
        try swap("inner", in: job)
        try job.restore()
      }
    }

    /// The images too are read from their folder only.
    @Test func images() throws {
      try withTree("exec 5<inner/sub/data") { job in
        for name in Files.names(job.images) where name.hasSuffix(".img") && !name.hasPrefix("stats-") && !name.hasPrefix("timens") {
          let (path, away) = (job.images + "/" + name, job.path("outside/\(name)"))
          rename(path, away)
          #expect(symlink(away, path) == 0)
          let outcome = try job.tryRestore()
          #expect(outcome.code == 1 && outcome.errors.contains(name), "\(name): \(outcome)")
          try job.expectNothingLeft()
          unlink(path)
          rename(away, path)
        }
        try job.restore()
      }
    }

    /// What only looks like following a link: files of the tree's own processes in /proc, and a link that is open as such.
    @Test func whatIsMeantKeepsWorking() throws {
      let script = """
        import os, time
        os.symlink("nowhere", "link")
        held = {7: os.open("link", os.O_PATH | os.O_NOFOLLOW), 8: os.open("/proc/self/status", os.O_RDONLY),
                9: os.open("/proc/self", os.O_RDONLY), 10: os.open("/proc/self/exe", os.O_PATH | os.O_NOFOLLOW)}
        for number, fd in held.items(): os.dup2(fd, number)
        open("ready", "w").close()
        while not os.path.exists("check"): time.sleep(0.02)
        names = [os.readlink(f"/proc/self/fd/{n}") for n in (7, 8, 9, 10)]
        pid = os.getpid()
        print(names == [os.getcwd() + "/link", f"/proc/{pid}/status", f"/proc/{pid}", f"/proc/{pid}/exe"],
              f"Pid:\\t{pid}\\n" in os.pread(8, 4096, 0).decode(), os.readlink("", dir_fd=7) == "nowhere")
        """
      try Job.run(["/usr/bin/python3", "-c", script], named: "meant") { job in
        try job.waitFor("ready")
        try job.cycle()
        try Files.write("", to: job.path("check"))
        #expect(try job.finish() == 0, "\(job.condition)")
        #expect(try job.text("out") == "True True True\n")
      }
    }

    /// The kernel's names are bytes.
    @Test func namesThatAreNotUTF8() throws {
      let script = """
        import os, time
        name = os.getcwdb() + b"/\\xff\\xfe name"
        open(name, "wb").write(b"content")
        gone = os.open(name + b" gone", os.O_RDWR | os.O_CREAT)
        os.write(gone, b"kept")
        os.unlink(name + b" gone")
        file = os.open(name, os.O_RDONLY)
        os.mkdir(name + b".d")
        os.chdir(name + b".d")
        open("../ready", "w").close()
        while not os.path.exists("../check"): time.sleep(0.02)
        print(os.readlink(b"/proc/self/fd/%d" % file) == name, os.pread(gone, 9, 0) == b"kept", os.getcwdb() == name + b".d",
              os.readlink(b"/proc/self/fd/%d" % gone) == name + b" gone (deleted)")
        """
      try Job.run(["/usr/bin/python3", "-c", script], named: "bytes") { job in
        try job.waitFor("ready")
        try job.cycle()
        try Files.write("", to: job.path("check"))
        #expect(try job.finish() == 0, "\(job.condition)")
        #expect(try job.text("out") == "True True True True\n")
      }
    }
  }
}
