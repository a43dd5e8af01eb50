import ArgumentParser

@main
struct SwiftRestore: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "swift-restore",
    abstract: "Checkpoint a Linux process tree to image files, and bring it back.",
    version: "0.1.0",
    subcommands: [DumpCommand.self, RestoreCommand.self, CheckCommand.self, ShowCommand.self])

  static func main() {
    let arguments = CommandLine.arguments.dropFirst().map(spelledOut)
    do {
      if let request = UsualOptions.request(arguments) { return try request.run() }
      guard var command = named(arguments) else { return main(arguments) }
      try command.run()
    } catch {
      exit(withError: error)
    }
  }

  /// The command that the first word names, with the rest parsed for it alone. Parsing for the whole tree costs a
  /// millisecond more, which a small dump notices; what this cannot parse, `main` parses again and explains.
  private static func named(_ arguments: [String]) -> (any ParsableCommand)? {
    let name = arguments.first
    let type = configuration.subcommands.first { $0.configuration.commandName == name }
    return try? type?.parseAsRoot(Array(arguments.dropFirst()))
  }

  /// CRIU's `-v4`, `-vvvv` and `-V`, which the argument parser has no notation for.
  private static func spelledOut(_ argument: String) -> String {
    if argument == "-V" { return "--version" }
    guard argument.hasPrefix("-v"), !argument.hasPrefix("--") else { return argument }
    let rest = argument.dropFirst(2)
    if rest.allSatisfy({ $0 == "v" }) { return "--verbosity=\(rest.count + 1)" }
    return rest.allSatisfy(\.isNumber) ? "--verbosity=\(rest)" : argument
  }
}
