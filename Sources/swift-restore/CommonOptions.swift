import ArgumentParser
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// What every command that works on images takes.
struct CommonOptions: ParsableArguments {
  @Option(
    name: [.customShort("D"), .customLong("images-dir"), .customLong("images")],
    help: "The folder of the image files (default: .)")
  var imagesDir: String?

  @Option(
    name: [.customShort("W"), .long],
    help: "The folder for logs and statistics; the images folder if not given.")
  var workDir: String?

  @Option(name: [.customShort("o"), .long], help: "Write details to this file in the work folder.")
  var logFile: String?

  @Option(
    name: [.customLong("verbosity")],
    help: "How much to write to the log, 0 to 4 or more; also -vN, or -v as often as N.")
  var verbosity: Int = 2

  @Flag(inversion: .prefixedNo, help: "Print the statistics.")
  var displayStats = false

  @Flag(inversion: .prefixedNo, help: "Print results and errors as JSON.")
  var json = false

  var images: String { imagesDir ?? "." }

  var values: CommonValues {
    CommonValues(
      images: images, workDir: workDir, logFile: logFile, verbosity: verbosity, displayStats: displayStats, json: json)
  }

  func validate() throws {
    guard verbosity >= 0 else { throw ValidationError("The verbosity goes from 0 up.") }
  }
}

/// The same, read.
struct CommonValues {
  var images = "."
  var workDir: String?
  var logFile: String?
  var verbosity = 2
  var displayStats = false
  var json = false
}

/// What a command says, and how it ends.
struct Output {
  private let options: CommonValues
  private var log: Int32?

  /// `makesFolder`: the folder of images is made where there is none.
  init(_ options: CommonValues, makesFolder: Bool = false) throws {
    self.options = options
    guard let name = options.logFile else {
      log = nil
      return
    }
    let folder = options.workDir ?? options.images
    let path = name.hasPrefix("/") ? name : folder + "/" + name
    if makesFolder || options.workDir != nil { mkdir(folder, 0o700) }
    let fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0o600)
    if fd < 0 {
      let failure = Failure(
        "the log file \(path)", Errno(rawValue: errno), advice: "Give a folder that can be written with --images or --work-dir.")
      log = nil
      try reporting { throw failure }
    }
    log = fd
  }

  /// Runs a command and, if it fails, says so: one line of cause, one line of what to do, exit status 1.
  func reporting(_ body: () throws -> Void) throws {
    do {
      try body()
    } catch let failure as Failure {
      if options.json {
        Self.write(
          "{\"error\":{\"cause\":\(json(failure.cause)),\"advice\":\(json(failure.advice)),\"errno\":\(failure.errno?.rawValue ?? 0)}}\n",
          to: 1)
      } else {
        Self.write(
          "swift-restore: \(Self.printable(failure.cause))\n" + (failure.advice.isEmpty ? "" : "  \(Self.printable(failure.advice))\n"),
          to: 2)
      }
      if let log { Self.write("Error: \(Self.printable(failure.description))\n", to: log) }
      throw ExitCode(1)
    }
  }

  func warn(_ warnings: [String]) {
    for warning in warnings.map(Self.printable) {
      if let log, options.verbosity >= 1 { Self.write("Warning: \(warning)\n", to: log) }
      if !options.json && options.verbosity >= 1 { Self.write("swift-restore: warning: \(warning)\n", to: 2) }
    }
  }

  func show(_ s: DumpStatsEntry) {
    let rows: [(String, String, UInt64)] = [
      ("freezing_time", "Freezing time, µs", UInt64(s.freezingTime)),
      ("frozen_time", "Frozen time, µs", UInt64(s.frozenTime)),
      ("memdump_time", "Memory dump time, µs", UInt64(s.memdumpTime)),
      ("memwrite_time", "Memory write time, µs", UInt64(s.memwriteTime)),
      ("pages_scanned", "Pages scanned", s.pagesScanned), ("pages_written", "Pages written", s.pagesWritten),
      ("shpages_written", "Shared pages written", s.shpagesWritten ?? 0),
    ]
    show("dump", rows)
  }

  func show(_ s: RestoreStatsEntry, pidRetries: Int) {
    show(
      "restore",
      [
        ("forking_time", "Forking time, µs", UInt64(s.forkingTime)),
        ("restore_time", "Restore time, µs", UInt64(s.restoreTime)),
        ("pages_restored", "Pages restored", s.pagesRestored ?? 0),
        ("pid_retries", "PIDs tried again", UInt64(pidRetries)),
      ])
  }

  private func show(_ name: String, _ rows: [(String, String, UInt64)]) {
    if let log, options.verbosity >= 2 {
      for (_, label, value) in rows { Self.write("\(label): \(value)\n", to: log) }
    }
    if options.json {
      Self.write("{\"\(name)\":{" + rows.map { "\"\($0.0)\":\($0.2)" }.joined(separator: ",") + "}}\n", to: 1)
    } else if options.displayStats {
      for (_, label, value) in rows { Self.write("\(label): \(value)\n", to: 1) }
    }
  }

  /// A command's result: one JSON document, or the lines for people.
  func show(_ result: JSON, or lines: () -> String) {
    Self.write(options.json ? "\(result)\n" : Self.printable(lines()), to: 1)
  }

  /// Names in images are anybody's: what would steer a terminal is shown by its number.
  static func printable(_ text: String) -> String {
    func steers(_ scalar: Unicode.Scalar) -> Bool {
      scalar.properties.generalCategory == .control && scalar != "\n" || scalar.properties.isBidiControl
    }
    guard text.unicodeScalars.contains(where: steers) else { return text }
    return text.unicodeScalars.map { steers($0) ? "\\x\(String($0.value, radix: 16))" : String($0) }.joined()
  }

  /// A JSON string.
  func json(_ text: String) -> String { JSON.string(text).description }

  /// Writes all of it, or as much as the receiver takes.
  static func write(_ text: String, to fd: Int32) {
    var text = text
    text.withUTF8 { bytes in
      var rest = bytes[...]
      while !rest.isEmpty {
        let count = Glibc.write(fd, UnsafeBufferPointer(rebasing: rest).baseAddress, rest.count)
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { return }
        rest = rest.dropFirst(count)
      }
    }
  }
}
