import Features
import Linux

extension FeatureReport {
  /// A line per feature and capability, for people.
  var lines: String {
    let names = features.map(\.name) + capabilities.map(\.name)
    let width = (names.map(\.count).max() ?? 0) + 2
    func line(_ name: String, _ answer: String) -> String {
      name + String(repeating: " ", count: width - name.count) + answer + "\n"
    }
    return features.map { line($0.name, $0.answer) }.joined()
      + capabilities.map { line($0.name, $0.isHeld ? "yes" : "no: \($0.without)") }.joined()
  }

  /// The same for scripts.
  var json: JSON {
    .object([
      ("dump", .bool(missingForDump.isEmpty)), ("restore", .bool(missingForRestore.isEmpty)),
      ("restore_new_pid_namespace", .bool(missingForRestore.isEmpty || restoresInNewNamespace)),
      ("features", .array(features.map(\.json))),
      (
        "capabilities",
        .array(
          capabilities.map {
            .object([
              ("name", .string($0.name)), ("held", .bool($0.isHeld)),
              ("without", .string($0.isHeld ? nil : $0.without)),
            ])
          })
      ),
    ])
  }

  /// What cannot work at all; `nil` if dump and restore can.
  var failure: Failure? {
    let missing = [("dump", missingForDump), ("restore", missingForRestore)].filter { !$0.1.isEmpty }
    guard !missing.isEmpty else { return nil }
    let causes = missing.map { verb, features in
      let works = verb == "restore" && restoresInNewNamespace ? "works with --new-pid-namespace only" : "cannot work here"
      return "\(verb) \(works), it needs " + features.map(\.name).joined(separator: ", ")
    }
    let lacksPrivilege = missing.contains { $0.1.contains { $0.failure?.errno == .notPermitted } }
    return Failure(
      causes.joined(separator: "; "),
      advice: lacksPrivilege
        ? "Run as root, or for processes of your own with CAP_CHECKPOINT_RESTORE."
        : "The kernel must be newer, or built or allowed to have these.")
  }
}

extension Feature {
  fileprivate var answer: String {
    guard let failure else { return "yes" }
    return "no: \(failure.errno?.nameAndText ?? failure.cause); \(need.words)"
  }

  fileprivate var json: JSON {
    .object([
      ("name", .string(name)), ("available", .bool(isThere)), ("needed_for", .string(need.word)),
      ("what", .string(need.what)),
      ("cause", .string(failure?.cause)), ("errno", .number(failure?.errno?.rawValue)),
    ])
  }
}

extension Feature.Need {
  fileprivate var words: String {
    switch self {
    case .dump: "dump needs it"
    case .restore: "restore needs it"
    case .both: "dump and restore need it"
    case .unprivileged: "restore --new-pid-namespace needs it without CAP_SYS_ADMIN"
    case .programs(let what): "needed for programs with \(what)"
    case .speed(let what): "dumps \(what) are slower without it"
    case .later(let what): "for \(what) to come"
    }
  }

  /// For scripts.
  fileprivate var word: String {
    switch self {
    case .dump: "dump"
    case .restore: "restore"
    case .both: "both"
    case .unprivileged: "unprivileged"
    case .programs: "programs"
    case .speed: "speed"
    case .later: "later"
    }
  }

  /// What programs have to have to need it, which dumps are slower without it, or what will be made of it.
  fileprivate var what: String? {
    switch self {
    case .dump, .restore, .both, .unprivileged: nil
    case .programs(let what), .speed(let what), .later(let what): what
    }
  }
}
