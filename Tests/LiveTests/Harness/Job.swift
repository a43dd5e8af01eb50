import Glibc

/// A program that a test started in a folder of its own, through as many dumps and restores as the test wants.
/// `Job.run` ends everything and removes the folder, whatever happens.
final class Job {
  /// The program's working directory. Its output is in `out` and `err`, images in `images.1`, `images.2`, …
  let folder: String
  private(set) var pid: pid_t = 0
  /// Every process of the tree, as of the last dump.
  private(set) var tree: [pid_t] = []
  private var seen: Set<pid_t> = []
  /// How many dumps there were.
  private(set) var count = 0
  private let extraOptions: [String]

  private init(name: String, options: [String]) throws {
    folder = try Files.makeTemporaryFolder(name)
    extraOptions = options
  }

  /// Starts a command as leader of its own session, and hands it to `body`.
  static func run<Result>(
    _ command: [String], named name: String, environment: [String: String] = [:], options: [String] = [],
    prepare: (String) throws -> Void = { _ in }, body: (Job) throws -> Result
  ) throws -> Result {
    let job = try Job(name: name, options: options)
    defer { job.end() }
    try prepare(job.folder)
    job.pid = try Processes.start(
      command.map { $0.hasPrefix("./") ? job.folder + $0.dropFirst() : $0 }, in: job.folder,
      environment: environment,
      output: job.folder + "/out", errors: job.folder + "/err", newSession: true)
    job.seen.insert(job.pid)
    return try body(job)
  }

  func path(_ name: String) -> String { "\(folder)/\(name)" }
  var images: String { path("images.\(count)") }

  func waitFor(_ name: String, seconds: Double = 15) throws {
    guard Processes.poll(seconds, { Files.exists(path(name)) }) else {
      throw LiveFailure("no \(name) after \(seconds) s; \(condition)")
    }
  }

  func text(_ name: String) throws -> String {
    guard let text = Files.text(path(name)) else { throw LiveFailure("no \(name); \(condition)") }
    return text
  }

  /// The root's fate in a few words, for messages.
  var condition: String {
    let state = Processes.state(of: pid).map { "in state \($0)" } ?? "gone"
    return "process \(pid) is \(state), stderr: \((Files.text(path("err")) ?? "").suffix(300))"
  }

  /// Dumps into a new folder and expects success; afterwards no task of the tree may be left, unless it is left running.
  func dump(_ options: String...) throws {
    let outcome = try tryDump(options)
    guard outcome.code == 0 else {
      throw LiveFailure("dump exits \(outcome.code): \(outcome.errors)\(logTail("dump.log"))")
    }
    if options.contains(where: { ["-R", "--leave-running", "-s", "--leave-stopped"].contains($0) }) {
      return
    }
    try expectGone()
  }

  /// The same by another copy of the tool, and as the owner of the folder.
  func dump(program: String, prefix: [String], _ options: [String]) throws {
    count += 1
    mkdir(images, 0o700)
    var status = stat()
    stat(folder, &status)
    for path in [images, path("out"), path("err")] { chown(path, status.st_uid, status.st_gid) }
    tree = Processes.tree(of: pid)
    seen.formUnion(tree)
    let outcome = try Tool.run(["dump", "-t", "\(pid)", "-D", images] + options, program: program, prefix: prefix)
    guard outcome.code == 0 else { throw LiveFailure("dump exits \(outcome.code): \(outcome.errors)") }
    try expectGone()
  }

  func tryDump(_ options: [String] = [], to folder: String? = nil, prefix: [String] = []) throws
    -> Tool.Outcome
  {
    count += 1
    mkdir(images, 0o777)
    tree = Processes.tree(of: pid)
    seen.formUnion(tree)
    return try runTool(
      "dump.log", in: folder ?? images,
      ["dump", "-t", "\(pid)", "-D", folder ?? images, "-o", "dump.log", "-v4"] + extraOptions + options,
      prefix: prefix)
  }

  /// Restores the last dump, detached, and expects success.
  func restore(_ options: String...) throws {
    var outcome = try tryRestore(options)
    // It has the PID where somebody else has set the number to go on from (ns_last_pid); it asks to be started again.
    if outcome.code == 1, outcome.errors.contains("is swift-restore's own") { outcome = try tryRestore(options) }
    guard outcome.code == 0 else {
      throw LiveFailure("restore exits \(outcome.code): \(outcome.errors)\(logTail("restore.log"))")
    }
  }

  func tryRestore(_ options: [String] = [], from folder: String? = nil, prefix: [String] = []) throws -> Tool.Outcome {
    try runTool(
      "restore.log", in: folder ?? images,
      ["restore", "-D", folder ?? images, "-o", "restore.log", "-v4", "-d"] + extraOptions + options, prefix: prefix)
  }

  /// CRIU tells its errors to its log only.
  private func runTool(_ log: String, in folder: String, _ arguments: [String], prefix: [String] = []) throws
    -> Tool.Outcome
  {
    let outcome = try Tool.run(arguments, prefix: prefix)
    guard Tool.isCRIU else { return outcome }
    let lines = (Files.text("\(folder)/\(log)") ?? "").split(separator: "\n").filter { $0.contains("Error") }
    return Tool.Outcome(
      code: outcome.code, output: outcome.output, errors: outcome.errors + lines.joined(separator: "\n"))
  }

  /// Seconds for which the tree was frozen at least and at most.
  @discardableResult
  func cycle(pause: Double = 0) throws -> ClosedRange<Double> {
    let beforeDump = Processes.now()
    try dump()
    let dumped = Processes.now()
    usleep(UInt32(pause * 1e6))
    let beforeRestore = Processes.now()
    try restore()
    return beforeRestore - dumped...Processes.now() - beforeDump
  }

  /// Waits until the whole tree is gone, and reaps what has come to this process.
  func expectGone(seconds: Double = 5) throws {
    let gone = Processes.poll(seconds) {
      for pid in tree { waitpid(pid, nil, WNOHANG) }
      // The tree may have had children since it was looked at.
      Processes.reapOrphans(of: [pid])
      return tree.allSatisfy { Processes.state(of: $0) == nil }
    }
    guard gone else {
      let left = tree.compactMap { pid in Processes.state(of: pid).map { "\(pid) (\($0))" } }
      throw LiveFailure("still there: \(left.joined(separator: ", "))")
    }
  }

  /// After a restore that failed: none of the tree's PIDs is taken, and nothing else was left in the job's folder. Zombies
  /// may have come to this process, which reaps them.
  func expectNothingLeft() throws {
    try expectGone(seconds: 1)
    var left: [pid_t] = []
    let isEmpty = Processes.poll(1) {
      left = Processes.using(folder)
      return left.isEmpty
    }
    if !isEmpty { throw LiveFailure("left behind: \(left)") }
    Processes.reapOrphans(of: Set(tree))
  }

  /// Kills whatever came out of a restore, whose PIDs need not be the recorded ones.
  func endAll() { Processes.end(allOf: folder, and: Set(tree)) }

  /// Waits for the root to end by itself.
  func finish(seconds: Double = 60) throws -> Int32 {
    guard let ended = Processes.wait(for: pid, seconds: seconds) else {
      throw LiveFailure("not finished after \(seconds) s; \(condition)")
    }
    return ended.code
  }

  /// Kills the tree as it is now, as a user would.
  func killTree() throws {
    tree = Processes.tree(of: pid)
    seen.formUnion(tree)
    for pid in tree { kill(pid, SIGKILL) }
    try expectGone()
  }

  private func logTail(_ name: String) -> String {
    let lines = (Files.text("\(images)/\(name)") ?? "").split(separator: "\n")
    let errors = lines.filter { $0.lowercased().contains("error") }
    return "\n" + (errors.isEmpty ? lines.suffix(5) : errors.suffix(5)).joined(separator: "\n")
  }

  private func end() {
    Processes.end(allOf: folder, and: seen)
    Files.remove(folder)
  }
}
