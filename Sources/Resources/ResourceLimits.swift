import CLinux
import Checkpoint
import Linux
import Tracee

/// Resource limits (man 2 prlimit64), all sixteen.
public struct ResourceLimits: TaskState {
  static let count = 16
  private static let names = [
    "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING",
    "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
  ]

  private let limits: SyscallProgram.Buffer

  public init(asking program: inout SyscallProgram, in thread: DumpedThread) {
    limits = program.reserve(16 * Self.count)
    for i in 0..<Self.count {
      program.call(
        __NR_prlimit64, 0, Argument(i), 0, Argument(limits.address + UInt64(16 * i)),
        for: "reading resource limit",
        UInt64(i))
    }
  }

  public func record(from slot: Slot, of thread: DumpedThread, into core: inout CoreEntry) {
    let bytes = slot.bytes(limits)
    var entry = TaskRlimitsEntry()
    entry.rlimits = (0..<Self.count).map { i in
      var limit = RlimitEntry()
      limit.cur = bytes.loadUnaligned(fromByteOffset: 16 * i, as: UInt64.self)
      limit.max = bytes.loadUnaligned(fromByteOffset: 16 * i + 8, as: UInt64.self)
      return limit
    }
    core.task.rlimits = entry
  }

  /// A hard limit above this process's own needs CAP_SYS_RESOURCE: without it the limit stays, with a warning.
  public static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) {
    for (i, recorded) in (thread.core.task.rlimits?.rlimits ?? []).enumerated().prefix(count) {
      var value = (recorded.cur, recorded.max)
      let stub = thread.stub?.limits[i]
      if let stub, stub == value { continue }
      if let own = stub, own.0 <= own.1, recorded.max > own.1, !Capabilities.own.contains(.sysResource) {
        value = (min(recorded.cur, own.1), own.1)
        thread.warnings.append(
          "task \(thread.pid): hard limit RLIMIT_\(names[i]) stays at \(own.1) instead of \(recorded.max): needs CAP_SYS_RESOURCE"
        )
      }
      program.call(
        __NR_prlimit64, 0, Argument(i), Argument(program.place(value)), 0, for: "setting resource limit",
        UInt64(i))
    }
  }

  public static func concede(_ core: inout CoreEntry, to stub: StubState, _ may: Privileges) -> [String] {
    guard !may.machine.contains(.sysResource), var entry = core.tc?.rlimits else { return [] }
    var denied: [String] = []
    for i in entry.rlimits.indices.prefix(count) where entry.rlimits[i].max > stub.limits[i].1 {
      denied.append("hard limit RLIMIT_\(names[i]) \(text(entry.rlimits[i].max)), here \(text(stub.limits[i].1)): needs CAP_SYS_RESOURCE")
      entry.rlimits[i].max = stub.limits[i].1
      entry.rlimits[i].cur = min(entry.rlimits[i].cur, stub.limits[i].1)
    }
    core.tc?.rlimits = entry
    return denied
  }

  private static func text(_ limit: UInt64) -> String { limit == UInt64.max ? "unlimited" : String(limit) }
}
