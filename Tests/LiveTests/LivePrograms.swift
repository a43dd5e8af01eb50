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

    /// Into a tmpfs the tool writes beside the task, and begins while it reads the mappings of one that has many.
    @Test(arguments: ["mem_many", "mem_patchwork", "mem_big"])
    func survivesInMemory(_ name: String) throws {
      try LiveProgram(name: name).run { job in
        try Files.withTmpfs(at: job.path("images.1")) { _ = try job.cycle() }
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
