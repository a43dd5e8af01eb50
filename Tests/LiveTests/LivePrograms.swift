import Glibc
import Testing

/// Everything that starts real programs. One at a time: they share the machine's PIDs and its clock.
@Suite(
  .serialized, .timeLimit(.minutes(5)),
  .enabled(if: Tool.isReady, "needs root, and a swift-restore that can dump and restore"))
enum Live {}

extension Live {
  /// One small C program for each thing that must survive.
  @Suite struct Programs {
    @Test(arguments: LiveProgram.all)
    func survives(_ program: LiveProgram) throws {
      try program.run { try $0.cycle() }
    }

    /// What is forgotten of a task between its turns, where there are thousands, is read again.
    @Test(arguments: LiveProgram.all)
    func survivesAsOneOfThousands(_ program: LiveProgram) throws {
      try program.run { job in
        try job.dump()
        let restored = try job.tryRestore(prefix: ["env", "SWIFT_RESTORE_LARGE=0"])
        if restored.code != 0 { throw LiveFailure("restore exits \(restored.code): \(restored.errors)") }
      }
    }

    /// Into a tmpfs the tool writes beside the task, and begins while it reads the mappings of one that has many.
    @Test(arguments: ["mem_many", "mem_patchwork", "mem_big"])
    func survivesInMemory(_ name: String) throws {
      try LiveProgram(name: name).run { job in
        try Files.withTmpfs(at: job.path("images.1")) { _ = try job.cycle() }
      }
    }

    /// The image of its pages is begun before all has been looked at, and so before that of its deleted file.
    @Test func isCopiedAhead() throws {
      try LiveProgram(name: "mem_many").run { job in
        try Files.withTmpfs(at: job.path("images.1")) {
          try job.dump()
          var (pages, ghost) = (stat(), stat())
          #expect(stat(job.path("images.1/pages-1.img"), &pages) == 0 && stat(job.path("images.1/ghost-file-1.img"), &ghost) == 0)
          #expect(pages.st_ino < ghost.st_ino, "a tmpfs numbers its files in the order in which they are made")
          #expect(pages.st_nlink == 1 && pages.st_mode & 0o777 == 0o600)
          try job.restore()
        }
      }
    }

    /// Pages that a task has in common with its parent, who is not of the tree, stay common when they are dumped: they would take the
    /// program twice the memory.
    @Test func leavesPagesShared() throws {
      try LiveProgram(name: "fixtures/forked_many").run { job in
        let child = try #require(Processes.tree(of: job.pid).last)
        func shared() throws -> Int {
          let text = try #require(Files.text("/proc/\(child)/smaps_rollup"))
          let line = try #require(text.split(separator: "\n").first { $0.hasPrefix("Shared_Dirty:") })
          return try #require(line.split(separator: " ").dropFirst().first.flatMap { Int($0) })
        }
        let before = try shared()
        #expect(before > 2000 * 12)
        try Files.withTmpfs(at: job.path("images.1")) {
          let outcome = try Tool.run(["dump", "-t", "\(child)", "-D", job.path("images.1"), "-R", "--shell-job"])
          #expect(outcome.code == 0, "\(outcome.errors)")
        }
        let after = try shared()
        #expect(after > before - 512, "\(after) of \(before) kB are still shared")
      }
    }

    /// It is full while the mappings are still being read; the program goes on.
    @Test func outlivesAFullTmpfs() throws {
      try LiveProgram(name: "mem_many").run { job in
        try Files.withTmpfs(at: job.path("images.1"), size: "8m") {
          let outcome = try job.tryDump()
          #expect(outcome.code == 1 && outcome.errors.contains("ENOSPC"), "\(outcome.errors)")
          #expect(!Files.exists(job.path("images.1/inventory.img")))
        }
        try job.cycle()
      }
    }

    /// A program must not be able to fail by itself, or its verdict says nothing.
    @Test(arguments: LiveProgram.all)
    func isRightUndisturbed(_ program: LiveProgram) throws {
      try program.run { _ in }
    }
  }
}
