import Glibc
import Testing

/// One of the C programs in `Programs/`, which say themselves whether they came through.
struct LiveProgram: CustomTestStringConvertible, Sendable {
  let name: String
  var testDescription: String { name }

  private static let folder =
    "/" + #filePath.split(separator: "/").dropLast(2).joined(separator: "/") + "/Programs"
  private var source: String { "\(Self.folder)/\(name).c" }

  /// All of them, but for those that wait for their feature.
  static let all: [LiveProgram] = Files.names(folder).filter { $0.hasSuffix(".c") }
    .map { LiveProgram(name: String($0.dropLast(2))) }
    .filter { Tool.isCRIU || !Pending.programs.contains($0.name) }

  /// Options that CRIU needs for this program and swift-restore does not: `// criu: --link-remap`.
  private var options: [String] {
    guard Tool.isCRIU, let text = Files.text(source) else { return [] }
    let line = text.split(separator: "\n").first { $0.hasPrefix("// criu: ") }
    return line?.dropFirst(9).split(separator: " ").map(String.init) ?? []
  }

  enum Verdict: Equatable {
    case pass
    case skip(String)
  }

  /// Compiles and starts the program, waits until it is ready, lets `body` do its part, and asks for the verdict.
  @discardableResult
  func run(
    environment: [String: String] = [:], prefix: [String] = [], prepare: (String) throws -> Void = { _ in },
    _ body: (Job) throws -> Void
  ) throws -> Verdict {
    let name = self.name.split(separator: "/").last.map(String.init) ?? self.name
    let compile = compile(to: name)
    return try Job.run(
      prefix + ["./\(name)", "./base"], named: name, environment: environment, options: options,
      prepare: { folder in
        try compile(folder)
        try prepare(folder)
      }
    ) { job in
      let isReady = Processes.poll(20) {
        Files.exists(job.path("base")) || Files.exists(job.path("base.result"))
      }
      guard isReady else { throw LiveFailure("not ready after 20 s; \(job.condition)") }
      if Files.exists(job.path("base.result")) { return try verdict(of: job) }
      // Tasks that said they are ready get to where they wait.
      usleep(100_000)
      try body(job)
      try Files.write("", to: job.path("base.check"))
      try job.waitFor("base.result", seconds: 30)
      return try verdict(of: job)
    }
  }

  func compile(to name: String) -> (String) throws -> Void {
    { folder in
      let log = folder + "/gcc"
      let gcc = try Processes.start(
        ["gcc", "-O2", "-pthread", "-Wall", "-o", "\(folder)/\(name)", source], in: folder, output: log,
        errors: log,
        newSession: false)
      guard let ended = Processes.wait(for: gcc, seconds: 60), ended.code == 0 else {
        throw LiveFailure("gcc: \(Files.text(log) ?? "")")
      }
    }
  }

  private func verdict(of job: Job) throws -> Verdict {
    let text = try job.text("base.result")
    if text.hasPrefix("PASS") { return .pass }
    if text.hasPrefix("SKIP: ") { return .skip(String(text.dropFirst(6))) }
    throw LiveFailure(text)
  }
}
