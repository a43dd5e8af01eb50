import CLinux
import Checkpoint
import Linux
import Tracee

/// Scheduling policy and parameters, nice, CPU affinity, I/O priority, timer slack of a thread (man 7 sched).
public struct Scheduling: TaskState {
  /// struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period, utilization clamps
  private typealias Attributes = (
    size: UInt32, policy: UInt32, flags: UInt64, nice: Int32, priority: UInt32, runtime: UInt64,
    deadline: UInt64,
    period: UInt64, utilMin: UInt32, utilMax: UInt32
  )
  private static let attributesSize = 56
  /// 1024 CPUs
  static let maskBytes = 128
  private static let deadlinePolicy: UInt32 = 6

  /// What others see of it too: struct sched_attr and the affinity of a thread. `nil` if they do not.
  static func seen(of tid: Int32) -> [UInt64]? {
    var words = [UInt64](repeating: 0, count: (attributesSize + maskBytes) / 8)
    let isSeen = words.withUnsafeMutableBytes { bytes in
      let address = Int(bitPattern: bytes.baseAddress)
      return cl_syscall(Int(__NR_sched_getattr), Int(tid), address, attributesSize, 0, 0, 0) == 0
        && cl_syscall(Int(__NR_sched_getaffinity), Int(tid), maskBytes, address + attributesSize, 0, 0, 0) >= 0
    }
    return isSeen ? words : nil
  }

  private let attributes: SyscallProgram.Buffer
  private let nice: SyscallProgram.Call
  private let affinity: SyscallProgram.Buffer
  private let affinitySize: SyscallProgram.Call
  private let ioPriority: SyscallProgram.Call
  private let timerSlack: SyscallProgram.Call

  public init(asking program: inout SyscallProgram, in thread: DumpedThread) {
    attributes = program.reserve(Self.attributesSize)
    program.call(
      __NR_sched_getattr, 0, Argument(attributes.address), Argument(Self.attributesSize), 0,
      for: "reading the scheduling policy")
    nice = program.call(__NR_getpriority, 0, 0, for: "reading the nice value")
    affinity = program.reserve(Self.maskBytes)
    affinitySize = program.call(
      __NR_sched_getaffinity, 0, Argument(Self.maskBytes), Argument(affinity.address),
      for: "reading the CPU affinity")
    ioPriority = program.call(__NR_ioprio_get, 1, 0, for: "reading the I/O priority")
    timerSlack = program.call(__NR_prctl, 30 /* PR_GET_TIMERSLACK */, for: "reading the timer slack")
  }

  public func record(from slot: Slot, of thread: DumpedThread, into core: inout CoreEntry) {
    let value = slot.value(attributes, as: Attributes.self)
    core.thread.schedPolicy = value.policy
    core.thread.schedPrio = value.priority
    core.thread.schedNice = Int32(20 - slot.result(nice))
    core.thread.schedFlags = value.flags
    if value.policy == Self.deadlinePolicy {
      core.thread.schedRuntime = value.runtime
      core.thread.schedDeadline = value.deadline
      core.thread.schedPeriod = value.period
    }
    core.thread.cpuAffinity = [UInt8](slot.bytes(affinity).prefix(Int(slot.result(affinitySize))))
    core.thread.ioprio = UInt32(truncatingIfNeeded: slot.result(ioPriority))
    core.thread.timerSlackNs = UInt64(bitPattern: slot.result(timerSlack))
  }

  public static func concede(_ core: inout CoreEntry, to stub: StubState, _ may: Privileges) -> [String] {
    guard !may.machine.contains(.sysNice), var thread = core.threadCore else { return [] }
    var denied: [String] = []
    // A limit of 0 to 40 stands for nice values from 20 down (man 2 getrlimit, RLIMIT_NICE); it is set back before.
    let limits = (core.tc?.rlimits?.rlimits ?? []).map(\.cur)
    func limit(_ resource: Int) -> UInt64 {
      min(stub.limits[resource].0, limits.indices.contains(resource) ? limits[resource] : UInt64.max)
    }
    if let nice = thread.schedNice, nice < stub.nice, UInt64(max(20 - nice, 0)) > limit(13) {
      denied.append("nice value \(nice): needs CAP_SYS_NICE")
      thread.schedNice = stub.nice
    }
    let policy = thread.schedPolicy ?? 0
    if [1, 2].contains(policy), UInt64(thread.schedPrio ?? 0) > limit(14) {
      denied.append(
        "real-time scheduling (\(policy == 1 ? "SCHED_FIFO" : "SCHED_RR"), priority \(thread.schedPrio ?? 0)): needs CAP_SYS_NICE")
      (thread.schedPolicy, thread.schedPrio) = (0, 0)
    } else if policy == deadlinePolicy {
      denied.append("deadline scheduling: needs CAP_SYS_NICE")
      (thread.schedPolicy, thread.schedPrio) = (0, 0)
    }
    // IOPRIO_CLASS_RT (block/ioprio.c: ioprio_check_cap)
    if (thread.ioprio ?? 0) >> 13 == 1, !may.machine.contains(.sysAdmin) {
      denied.append("real-time I/O priority: needs CAP_SYS_NICE")
      thread.ioprio = 0
    }
    core.threadCore = thread
    return denied
  }

  public static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) {
    let core = thread.core.thread
    if let slack = core.timerSlackNs, slack != thread.stub?.timerSlack {
      program.call(__NR_prctl, 29, Argument(slack), for: "setting the timer slack")
    }
    if let priority = core.ioprio, priority != 0 {
      program.call(__NR_ioprio_set, 1, 0, Argument(priority), for: "setting the I/O priority")
    }
    if let mask = core.cpuAffinity, !mask.isEmpty, mask != thread.stub?.affinity {
      program.call(
        __NR_sched_setaffinity, 0, Argument(mask.count), Argument(program.place(mask)),
        for: "setting the CPU affinity")
    }
    if let nice = core.schedNice, nice != thread.stub?.nice {
      program.call(__NR_setpriority, 0, 0, Argument(nice), for: "setting the nice value")
    }
    if let policy = core.schedPolicy, policy != 0 || core.schedFlags ?? 0 != 0 {
      // As sched_getscheduler(2) has it, SCHED_RESET_ON_FORK is a bit of the policy; as sched_getattr(2) has it, one of the flags.
      let resetOnFork: UInt32 = 0x4000_0000
      let flags = (core.schedFlags ?? 0) | (policy & resetOnFork != 0 ? 1 : 0)
      let value: Attributes = (
        UInt32(attributesSize), policy & ~resetOnFork, flags, core.schedNice ?? 0, core.schedPrio ?? 0,
        core.schedRuntime ?? 0, core.schedDeadline ?? 0, core.schedPeriod ?? 0, 0, 1024
      )
      program.call(
        __NR_sched_setattr, 0, Argument(program.place(value)), 0, for: "setting the scheduling policy")
    }
  }
}
