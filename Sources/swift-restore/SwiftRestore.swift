import ArgumentParser
import Checkpoint
import Linux

@main
struct SwiftRestore: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "swift-restore",
    abstract: "Checkpoint a Linux process tree to image files, and bring it back.",
    version: ToolVersion.number,
    subcommands: [DumpCommand.self, RestoreCommand.self, CheckCommand.self, ShowCommand.self])

  static func main() {
    tidyInheritance()
    let arguments = ShortOptions.spelledOut(CommandLine.arguments.dropFirst())
    do {
      if let request = UsualOptions.request(arguments) { return try request.run() }
      guard var command = named(arguments) else { return main(arguments) }
      try command.run()
    } catch {
      exit(withError: error)
    }
  }

  func run() throws { throw ValidationError("Give a command: dump, restore, check or show.") }

  /// The command that the first word names, with the rest parsed for it alone. Parsing for the whole tree costs a
  /// millisecond more, which a small dump notices; what this cannot parse, or is no such command (`--help`), `main` parses again.
  private static func named(_ arguments: [String]) -> (any ParsableCommand)? {
    guard let type = configuration.subcommands.first(where: { $0.configuration.commandName == arguments.first }),
      let command = try? type.parseAsRoot(Array(arguments.dropFirst()))
    else { return nil }
    return Swift.type(of: command) == type ? command : nil
  }
}
