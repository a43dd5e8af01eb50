import Checkpoint

extension CheckpointSummary {
  /// The tree for people: a paragraph per task, below its parent's and indented.
  var lines: String {
    var lines = ""
    for (depth, task) in tree {
      // A chain of a thousand tasks must not become lines of thousands of blanks.
      let indent = String(repeating: "  ", count: min(depth, 30))
      for (i, line) in task.lines.enumerated() { lines += indent + (i == 0 ? "" : "    ") + line + "\n" }
    }
    for memory in sharedMemory {
      lines += "shared memory \(memory.id): \(memory.dumpedPages) pages dumped\n"
    }
    return lines
  }
}

extension TaskSummary {
  /// The first says who it is, the others what it has.
  fileprivate var lines: [String] {
    var first = "\(pid) \(printable(comm))  \(state.words)"
    if let parent { first += ", parent \(parent)" }
    first += ", group \(group), session \(session)"
    if pidsPerLevel.count > 1 {
      first += ", PIDs " + pidsPerLevel.map { "\($0)" }.joined(separator: "/")
    }
    var lines = [first]
    if threads.count > 1 {
      lines.append(
        "threads: " + threads.map { "\($0.tid) \(printable($0.comm))" }.joined(separator: ", "))
    }
    if let memory { lines.append("memory: " + memory.words) }
    for (name, file) in [("exe", executable), ("cwd", workingDirectory), ("root", root)] {
      if let file { lines.append("\(name): \(printable(file.target))") }
    }
    let width = descriptors.map { "\($0.number)".count }.max() ?? 0
    for descriptor in descriptors {
      let number = "\(descriptor.number)"
      lines.append(
        String(repeating: " ", count: width - number.count) + number + ": " + descriptor.file.words)
    }
    return lines
  }
}

extension TaskSummary.State {
  fileprivate var words: String {
    switch self {
    case .alive: "alive"
    case .stopped(let signal?): "stopped by signal \(signal)"
    case .stopped(nil): "stopped"
    case .zombie(let status) where status & 0x7f != 0: "zombie, killed by signal \(status & 0x7f)"
    case .zombie(let status): "zombie, exited with \(status >> 8 & 0xff)"
    case .other(let number): "in the unknown state \(number)"
    }
  }
}

extension TaskSummary.Memory {
  fileprivate var words: String {
    let parent = parentPages == 0 ? "" : ", \(parentPages) in the parent images"
    return "\(vmas) VMAs, \(mappedBytes >> 10) KiB mapped, \(dumpedPages) pages dumped\(parent)"
  }
}

extension FileSummary {
  fileprivate var words: String {
    var words = kindName
    if !target.isEmpty { words += " \(printable(target))" }
    if isDeleted { words += " (deleted)" }
    if let access { words += " \(access.rawValue)" }
    if let position, position != 0 { words += " at \(position)" }
    return words
  }
}

/// Text of an image on a terminal: what would move the cursor is written in hex.
private func printable(_ text: String) -> String {
  var out = ""
  for scalar in text.unicodeScalars {
    if scalar.value < 0x20 || (0x7f..<0xa0).contains(scalar.value) {
      out += (scalar.value < 0x10 ? "\\x0" : "\\x") + String(scalar.value, radix: 16)
    } else {
      out.unicodeScalars.append(scalar)
    }
  }
  return out
}
