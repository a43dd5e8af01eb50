import Glibc

/// What /proc says of a tree that a dump must not change: tasks and threads, mappings, descriptors, signals.
struct Condition: Equatable {
  private(set) var lines: Set<String> = []

  init(of tree: [pid_t]) {
    for pid in tree {
      for line in (Files.text("/proc/\(pid)/maps") ?? "gone").split(separator: "\n") {
        // The heap may have grown meanwhile.
        let fields = line.split(separator: " ", omittingEmptySubsequences: true)
        lines.insert("\(pid) maps \(fields[0]) \(fields.dropFirst().first ?? "") \(fields.dropFirst(5).first ?? "")")
      }
      for fd in Files.names("/proc/\(pid)/fd") {
        let flags = (Files.text("/proc/\(pid)/fdinfo/\(fd)") ?? "").split(separator: "\n").first { $0.hasPrefix("flags") }
        lines.insert("\(pid) descriptor \(fd) \(Files.link("/proc/\(pid)/fd/\(fd)") ?? "") \(flags ?? "")")
      }
      for tid in Files.names("/proc/\(pid)/task") {
        let status = (Files.text("/proc/\(pid)/task/\(tid)/status") ?? "").split(separator: "\n")
        for field in ["TracerPid:", "SigBlk:", "SigIgn:", "SigCgt:"] {
          lines.insert("\(pid) \(tid) \(status.first { $0.hasPrefix(field) } ?? "")")
        }
        let state = status.first { $0.hasPrefix("State:") } ?? "gone"
        let isStopped = state.contains("stop") || state == "gone"
        lines.insert("\(pid) \(tid) \(isStopped ? state : "alive")")
      }
    }
  }

  /// What has changed in a living tree for good: a thread may just be in a handler of its own, whose signals are blocked meanwhile.
  func lastingChanges(of tree: [pid_t]) -> [String] {
    var changes: [String] = []
    _ = Processes.poll(1) {
      changes = self.changes(to: Condition(of: tree))
      return changes.isEmpty
    }
    return changes
  }

  /// What is no longer so, and what is new.
  func changes(to other: Condition) -> [String] {
    lines.subtracting(other.lines).map { "- " + $0 }.sorted() + other.lines.subtracting(lines).map { "+ " + $0 }.sorted()
  }
}

/// What a restore that fails must leave as it was: the files of the job's folder, and the machine's mounts.
struct Surroundings: Equatable {
  let files: [String]
  let mounts: [String]

  init(of job: Job) {
    files = Self.files(below: job.folder).filter { !$0.hasSuffix("restore.log") }
    mounts = (Files.text("/proc/self/mountinfo") ?? "").split(separator: "\n").map(String.init)
  }

  private static func files(below folder: String) -> [String] {
    Files.names(folder).flatMap { name in
      let path = "\(folder)/\(name)"
      var status = stat()
      guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else { return [path] }
      return [path] + files(below: path)
    }
  }
}
