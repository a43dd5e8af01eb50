import ArgumentParser

@main
struct SwiftRestore: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "swift-restore",
    abstract: "Checkpoint a Linux process tree to image files, and bring it back.",
    version: "0.1.0",
    subcommands: [DumpCommand.self, RestoreCommand.self])
}
