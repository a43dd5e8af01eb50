import Glibc

/// The program under test. Two environment variables choose it: `SWIFT_RESTORE` is its path, by default the newest build
/// of this package; `SWIFT_RESTORE_STYLE=criu` says that it is CRIU, to test the tests themselves.
enum Tool {
  static let isCRIU = getenv("SWIFT_RESTORE_STYLE").map { String(cString: $0) } == "criu"

  static let path: String = {
    if let path = getenv("SWIFT_RESTORE") { return String(cString: path) }
    let package = #filePath.split(separator: "/").dropLast(4).joined(separator: "/")
    let builds = ["release", "debug"].map { "/\(package)/.build/\($0)/swift-restore" }
    let made = builds.map { path in
      var status = stat()
      return stat(path, &status) == 0 ? status.st_mtim.tv_sec : 0
    }
    return made[0] > made[1] ? builds[0] : builds[1]
  }()

  /// Live tests need root and a tool that can dump and restore.
  static let isReady: Bool = {
    guard geteuid() == 0, access(path, X_OK) == 0, Processes.isSubreaper else { return false }
    if isCRIU { return true }
    let help = (try? run(["--help"]))?.output ?? ""
    return help.contains("  dump") && help.contains("  restore")
  }()

  struct Outcome {
    let code: Int32
    let output: String
    let errors: String
  }

  /// Runs the tool to its end. It is killed after `seconds`, which is a failure.
  static func run(
    _ arguments: [String], program: String = path, seconds: Double = 60, prefix: [String] = []
  ) throws -> Outcome {
    let folder = try Files.makeTemporaryFolder("tool")
    defer { Files.remove(folder) }
    let pid = try Processes.start(
      prefix + [program] + arguments, in: "/", output: folder + "/out", errors: folder + "/err",
      newSession: false)
    guard let ended = Processes.wait(for: pid, seconds: seconds) else {
      kill(pid, SIGKILL)
      _ = Processes.wait(for: pid, seconds: 5)
      throw LiveFailure("\(path) \(arguments.joined(separator: " ")) hangs: killed after \(seconds) s")
    }
    return Outcome(
      code: ended.code, output: Files.text(folder + "/out") ?? "", errors: Files.text(folder + "/err") ?? "")
  }
}
