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

    /// A program must not be able to fail by itself, or its verdict says nothing.
    @Test(arguments: LiveProgram.all)
    func isRightUndisturbed(_ program: LiveProgram) throws {
      try program.run { _ in }
    }
  }
}
