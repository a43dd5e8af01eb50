import ArgumentParser

@main
struct SwiftRestore: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "swift-restore",
    abstract: "Checkpoint a Linux process tree to image files, and bring it back.",
    version: "0.1.0",
    subcommands: [DumpCommand.self, RestoreCommand.self, CheckCommand.self, ShowCommand.self])

  static func main() {
    main(CommandLine.arguments.dropFirst().map(spelledOut))
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
