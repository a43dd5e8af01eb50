/// What a command is asked to do, however its words were read.
protocol Request {
  func run() throws
}

/// The options that most dumps and restores are called with, read without the argument parser: what that needs to look at a command's
/// types is a quarter of a small restore. Other options, and words that are wrong, are left to it.
struct UsualOptions {
  /// Values by the first of an option's names; that of a flag is empty.
  private var values: [String: String] = [:]

  /// `nil` if there is anything else among the words, or anything twice.
  private init?(_ words: ArraySlice<String>, valued: [[String]], flags: [[String]]) {
    var words = words.makeIterator()
    while let word = words.next() {
      let parts = word.hasPrefix("--") ? word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false) : [word[...]]
      let name: String
      var value = ""
      if parts.count == 1, let flag = flags.first(where: { $0.contains(word) }) {
        name = flag[0]
      } else if let option = valued.first(where: { $0.contains(String(parts[0])) }) {
        guard let next = parts.count == 2 ? String(parts[1]) : words.next(), !next.isEmpty, !next.hasPrefix("-") else { return nil }
        (name, value) = (option[0], next)
      } else {
        return nil
      }
      guard values.updateValue(value, forKey: name) == nil else { return nil }
    }
  }

  private static let common = [["-D", "--images-dir", "--images"], ["-W", "--work-dir"], ["-o", "--log-file"], ["--verbosity"]]

  private func apply(to common: inout CommonValues) -> Bool {
    common.images = values["-D"] ?? common.images
    common.workDir = values["-W"]
    common.logFile = values["-o"]
    guard let text = values["--verbosity"] else { return true }
    guard let verbosity = Int(text), verbosity >= 0 else { return false }
    common.verbosity = verbosity
    return true
  }

  /// What is asked for by the words after the tool's name; `nil` if it takes the argument parser to find out.
  static func request(_ words: [String]) -> (any Request)? {
    switch words.first {
    case "dump": dump(words.dropFirst())
    case "restore": restore(words.dropFirst())
    default: nil
    }
  }

  static func dump(_ words: ArraySlice<String>) -> DumpRequest? {
    var request = DumpRequest()
    guard let options = UsualOptions(words, valued: common + [["-t", "--tree", "--pid"]], flags: [["-R", "--leave-running"]]),
      options.apply(to: &request.common), let pid = options.values["-t"].flatMap({ Int32($0) })
    else { return nil }
    request.options.pid = pid
    request.options.leaveRunning = options.values["-R"] != nil
    return request
  }

  static func restore(_ words: ArraySlice<String>) -> RestoreRequest? {
    var request = RestoreRequest()
    guard let options = UsualOptions(words, valued: common, flags: [["-d", "--restore-detached", "--detach"]]),
      options.apply(to: &request.common)
    else { return nil }
    request.options.detach = options.values["-d"] != nil
    return request
  }
}
