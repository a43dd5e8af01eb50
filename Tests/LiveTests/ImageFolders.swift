import Checkpoint
import Glibc
import SystemPackage
import Testing

extension Live {
  /// Images hold a program's secrets, and a restore does what they say.
  @Suite struct ImageFolders {
    private func mode(_ path: String) -> mode_t {
      var status = stat()
      return lstat(path, &status) == 0 ? status.st_mode & 0o7777 : 0
    }

    /// Whatever the umask is.
    @Test func nobodyElseCanReadThem() throws {
      try Job.run(["sleep", "1000"], named: "modes") { job in
        usleep(50_000)
        let folder = job.path("made")
        let dump = try job.tryDump(["-R", "-o", "dump.log"], to: folder, prefix: ["sh", "-c", "umask 0; exec \"$@\"", "sh"])
        #expect(dump.code == 0 && dump.errors.isEmpty, "\(dump)")
        #expect(mode(folder) == 0o700)
        for name in Files.names(folder) { #expect(mode("\(folder)/\(name)") == 0o600, "\(name)") }
      }
    }

    /// A folder that is there stays as it is; the user is told if others can put images of theirs into it.
    @Test(arguments: [(mode_t(0o755), false), (0o770, true), (0o777, true), (0o1777, false)])
    func folderThatIsThere(_ mode: mode_t, _ isOpen: Bool) throws {
      try Job.run(["sleep", "1000"], named: "modes") { job in
        usleep(50_000)
        let folder = job.path("there")
        mkdir(folder, 0o700)
        chmod(folder, mode)
        let dump = try job.tryDump(["-R"], to: folder)
        #expect(dump.code == 0)
        #expect(dump.errors.contains("chmod go-w") == isOpen && dump.errors.isEmpty == !isOpen, "\(dump.errors)")
        #expect(self.mode(folder) == mode)
        for name in Files.names(folder) where name.hasSuffix(".img") { #expect(self.mode("\(folder)/\(name)") == 0o600, "\(name)") }
      }
    }

    /// What the tool writes into the folder goes nowhere else.
    @Test func linksInTheFolder() throws {
      try Job.run(["sleep", "1000"], named: "modes") { job in
        usleep(50_000)
        let folder = job.path("there")
        mkdir(folder, 0o755)
        try Files.write("precious", to: job.path("precious"))
        for name in ["pstree.img", "inventory.img.new", "stats-dump"] { #expect(symlink(job.path("precious"), "\(folder)/\(name)") == 0) }
        #expect(try job.tryDump(["-R"], to: folder).code == 0)
        for name in ["stats-restore", "log", "pid"] { #expect(symlink(job.path("precious"), "\(folder)/\(name)") == 0) }
        let log = try Tool.run(["check", "-D", folder, "-o", "log"])
        #expect(log.code == 1 && log.errors.contains("ELOOP"), "\(log)")
        #expect(try job.text("precious") == "precious")
      }
    }

    /// A name cannot steer the terminal of who looks at it.
    @Test func namesAreShownHarmlessly() throws {
      try Job.run(["sleep", "1000"], named: "names") { job in
        usleep(50_000)
        try job.dump()
        let folder = try ImageDirectory(opening: FilePath(job.images))
        var core = try folder.read(CoreEntry.self, from: .core(UInt32(job.pid)))
        core.tc?.comm = Array("\u{1b}[2Jsleep".utf8)
        var buffer = ImageBuffer()
        try folder.write(core, to: .core(UInt32(job.pid)), using: &buffer)
        let shown = try Tool.run(["show", job.images])
        #expect(shown.code == 0 && !shown.output.contains("\u{1b}") && shown.output.contains("\\x1b[2Jsleep"), "\(shown)")
      }
    }

    /// CRIU makes no interrupted call again by itself: it would hand the kernel's own codes to the program.
    @Test func interruptedCallsAreMadeAgainByAnyReader() throws {
      // In wait4, nanosleep and read.
      try Job.run(["sh", "-c", "sleep 1000 | cat; :"], named: "calls") { job in
        usleep(200_000)
        try job.dump()
        let folder = try ImageDirectory(opening: FilePath(job.images))
        for name in Files.names(job.images) where name.hasPrefix("core-") {
          let number = try #require(UInt32(name.dropFirst(5).prefix { $0.isNumber }))
          let core = try folder.read(CoreEntry.self, from: .core(number))
          guard let registers = core.threadInfo?.gpregs else { continue }
          #expect(!(-516 ... -512).contains(Int64(bitPattern: registers.ax)), "\(name)")
        }
      }
    }
  }
}
