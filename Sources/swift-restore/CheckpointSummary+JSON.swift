import Checkpoint

extension CheckpointSummary {
  /// The tree for scripts. Every key is always there; what a task does not have is null.
  var json: JSON {
    .object([
      ("image_version", .number(inventory.imgVersion)), ("tool", .string(inventory.toolVersion)),
      ("tasks", .array(tasks.map(\.json))),
      (
        "shared_memory",
        .array(
          sharedMemory.map {
            .object([("id", .number($0.id)), ("dumped_pages", .number($0.dumpedPages))])
          })
      ),
    ])
  }
}

extension TaskSummary {
  fileprivate var json: JSON {
    var status: UInt32?
    var stopSignal: UInt32?
    switch state {
    case .zombie(let recorded): status = recorded
    case .stopped(let signal): stopSignal = signal
    case .alive, .other: break
    }
    return .object([
      ("pid", .number(pid)), ("parent", .number(parent)), ("group", .number(group)),
      ("session", .number(session)),
      ("pids_per_level", .array((pidsPerLevel.isEmpty ? [pid] : pidsPerLevel).map { .number($0) })),
      ("state", .string(state.name)), ("wait_status", .number(status)), ("stop_signal", .number(stopSignal)),
      ("comm", .string(comm)),
      (
        "threads",
        .array(threads.map { .object([("tid", .number($0.tid)), ("comm", .string($0.comm))]) })
      ),
      ("memory", memory?.json ?? .null), ("exe", .string(executable?.target)),
      ("cwd", .string(workingDirectory?.target)), ("root", .string(root?.target)),
      ("files", .array(descriptors.map(\.json))),
    ])
  }
}

extension TaskSummary.Memory {
  fileprivate var json: JSON {
    .object([
      ("vmas", .number(vmas)), ("mapped_bytes", .number(mappedBytes)), ("dumped_pages", .number(dumpedPages)),
      ("parent_pages", .number(parentPages)),
    ])
  }
}

extension TaskSummary.Descriptor {
  fileprivate var json: JSON {
    .object([
      ("fd", .number(number)), ("close_on_exec", .bool(isCloseOnExec)), ("id", .number(file.id)),
      ("kind", .string(file.kindName)), ("target", .string(file.target)), ("deleted", .bool(file.isDeleted)),
      ("access", .string(file.access?.rawValue)), ("flags", .number(file.flags)),
      ("position", .number(file.position)),
    ])
  }
}
