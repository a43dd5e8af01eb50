import ProcessTree
import Resources

/// Which of a recorded tree's levels of PIDs is which where it is restored.
///
/// A root that is PID 1 brings a namespace of its own, nested in that of the tool; any other is born in the tool's. So the root
/// decides which recorded level is the tool's. Levels around that one belong to namespaces around the tool's, if it has any.
struct Levels {
  /// The recorded level of the PIDs that the tool sees; -1 if it recorded none.
  let tool: Int
  /// The first level whose PIDs are chosen; the kernel gives out those of the levels around it.
  let outermostNamed: Int

  init(_ tree: RecordedTree, _ options: RestoreOptions) {
    let root = tree.tasks.first { $0.parent == nil }
    let level = (root?.pids.count ?? 1) - 1
    let around = root?.pids.last == .one ? level - 1 : level
    if options.newPIDNamespace {
      tool = max(around, 0) - 1
      outermostNamed = max(around, 0)
    } else {
      tool = around
      // Nobody can write another's ns_last_pid.
      outermostNamed = options.pidMethod == .nsLastPID ? max(around, 0) : min(options.unnamedLevels, max(around, 0))
    }
  }

  /// Whether the PIDs that the tool sees are known beforehand.
  var namesToolLevel: Bool { tool >= outermostNamed }

  /// How many levels around the tool's are named: the kernel may not have them, or not allow it.
  var namedAround: Int { max(tool - outermostNamed, 0) }
}
