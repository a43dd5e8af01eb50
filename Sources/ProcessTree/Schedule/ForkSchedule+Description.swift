extension ForkSchedule.Actor: CustomStringConvertible {
  public var description: String {
    switch self {
    case .tool: "tool"
    case .task(let id): "task #\(id.index)"
    case .helper(let id): "helper #\(id.index)"
    }
  }
}

extension ForkSchedule.Step: CustomStringConvertible {
  /// One line: who does what.
  public var description: String { "\(executor): \(action)" }
}

extension ForkSchedule.Action: CustomStringConvertible {
  public var description: String {
    switch self {
    case .clone(let clone): "\(clone)"
    case .makeThread(_, _, let setTID): "make thread \(outermostFirst(setTID))"
    case .setsid: "setsid"
    case .setpgid(let target, .own): "setpgid: \(target) leads a group"
    case .setpgid(let target, .id(let pid)): "setpgid: \(target) joins group \(pid)"
    case .setpgid(let target, .external): "setpgid: \(target) joins the group of the tool"
    case .setns(let namespace): "setns: children are born in \(namespace)"
    case .unshare(let flags): "unshare \(flags)"
    case .exec: "exec: memory and signal handlers of its own"
    case .setChildSubreaper(true): "become a child subreaper"
    case .setChildSubreaper(false): "stop being a child subreaper"
    case .exit(let status): "exit with \(status)"
    case .wait(let child): "wait for \(child)"
    }
  }
}

extension ForkSchedule.Clone: CustomStringConvertible {
  public var description: String {
    var line = "clone \(child) as \(setTID.isEmpty ? "any free PID" : outermostFirst(setTID))"
    if !flags.isEmpty { line += " with \(flags)" }
    if exitSignal != .child, !flags.contains(.parent) { line += " exit \(exitSignal)" }
    return line
  }
}

/// PIDs as `NSpid:` shows them.
private func outermostFirst(_ setTID: [PID]) -> String {
  setTID.reversed().map(\.description).joined(separator: "/")
}

extension ForkSchedule: CustomStringConvertible {
  /// A line per step, in an order in which they may be executed; tasks and helpers are called by their PID.
  public var description: String { steps.map(\.description).joined(separator: "\n") }
}
