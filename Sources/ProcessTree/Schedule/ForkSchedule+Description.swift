extension ForkSchedule {
  /// A line per step, in an order in which they may be executed, that calls tasks by their PIDs.
  public func description(in tree: RecordedTree) -> String {
    steps.map { step in
      step.text { actor in
        switch actor {
        case .task(let id) where tree.tasks.indices.contains(id.index): list(tree[id].pids)
        case .helper(let id) where helpers.indices.contains(id.index) && !helpers[id.index].pids.isEmpty:
          "helper " + list(helpers[id.index].pids)
        default: "\(actor)"
        }
      }
    }.joined(separator: "\n")
  }
}

extension ForkSchedule: CustomStringConvertible {
  /// A line per step, in an order in which they may be executed.
  public var description: String { steps.map(\.description).joined(separator: "\n") }
}

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
  public var description: String { text(\.description) }

  func text(_ name: (ForkSchedule.Actor) -> String) -> String {
    "\(name(executor)): \(action.text(executor, name))"
  }
}

extension ForkSchedule.Action: CustomStringConvertible {
  public var description: String { text(nil, \.description) }

  fileprivate func text(_ executor: ForkSchedule.Actor?, _ name: (ForkSchedule.Actor) -> String) -> String {
    switch self {
    case .clone(let clone): clone.text(name)
    case .makeThread(_, _, let setTID): "make thread \(outermostFirst(setTID))"
    case .setsid: "setsid"
    case .setpgid(let target, let group):
      target == executor || executor == nil ? group.text : "\(group.text) for \(name(target))"
    case .setns(let namespace): "setns, children are born in \(namespace)"
    case .unshare(let flags): "unshare \(flags)"
    case .exec: "exec, for memory and handlers of its own"
    case .setChildSubreaper(let isOn): isOn ? "become child subreaper" : "stop being child subreaper"
    case .exit(let status): "exit with \(status)"
    case .wait(let child): "wait for \(name(child))"
    }
  }
}

extension ForkSchedule.Group {
  fileprivate var text: String {
    switch self {
    case .own: "setpgid, leads a group"
    case .id(let pid): "setpgid, joins group \(pid)"
    case .external: "setpgid, joins the tool's group"
    }
  }
}

extension ForkSchedule.Clone: CustomStringConvertible {
  public var description: String { text(\.description) }

  fileprivate func text(_ name: (ForkSchedule.Actor) -> String) -> String {
    let pids = setTID.isEmpty ? "any free PID" : outermostFirst(setTID)
    let child = name(child)
    var line = child == pids || child == "helper \(pids)" ? "clone \(child)" : "clone \(child) as \(pids)"
    if !flags.isEmpty { line += " with \(flags)" }
    if exitSignal != .child, !flags.contains(.parent) { line += ", exit \(exitSignal)" }
    return line
  }
}

/// PIDs as `NSpid:` shows them.
private func outermostFirst(_ setTID: [PID]) -> String { list(setTID.reversed()) }

private func list(_ pids: [PID]) -> String { pids.map(\.description).joined(separator: "/") }
