import CLinux
import Checkpoint
import Linux
import Tracee

/// A thread's name, the address to clear at its exit, robust futex list, restartable sequences, what a machine check does to it, and
/// whether it may read the time stamp counter (man 2 prctl, set_tid_address, set_robust_list, rseq).
public struct ThreadAttributes: TaskState {
  private let name: SyscallProgram.Buffer
  private let clearTID: SyscallProgram.Buffer
  private let robustList: SyscallProgram.Buffer
  private let machineChecks: SyscallProgram.Call
  private let counterMode: SyscallProgram.Buffer

  public init(asking program: inout SyscallProgram, in thread: DumpedThread) {
    name = program.reserve(16)
    program.call(__NR_prctl, 16 /* PR_GET_NAME */, Argument(name.address), for: "reading the thread's name")
    clearTID = program.reserve(8)
    program.call(
      __NR_prctl, 40 /* PR_GET_TID_ADDRESS */, Argument(clearTID.address),
      for: "reading the address to clear at exit")
    robustList = program.reserve(16)
    program.call(
      __NR_get_robust_list, 0, Argument(robustList.address), Argument(robustList.address + 8),
      for: "reading the robust futex list")
    // With CONFIG_MEMORY_FAILURE.
    machineChecks = program.call(__NR_prctl, 34 /* PR_MCE_KILL_GET */, 0, 0, 0, 0, mayFail: true)
    counterMode = program.reserve(8)
    program.call(__NR_prctl, 25 /* PR_GET_TSC */, Argument(counterMode.address), for: "reading the time stamp counter's mode")
  }

  /// PR_TSC_ENABLE of linux/prctl.h
  private static let counterEnabled: UInt32 = 1
  /// PR_MCE_KILL_DEFAULT
  private static let defaultPolicy = 2
  /// What stubs inherit from this process.
  private static let ownPolicy = cl_syscall(Int(__NR_prctl), 34, 0, 0, 0, 0, 0)

  public func record(from slot: Slot, of thread: DumpedThread, into core: inout CoreEntry) {
    let comm = [UInt8](slot.bytes(name).prefix { $0 != 0 })
    core.thread.comm = comm
    if thread.isLeader { core.task.comm = comm }
    core.threadInfo?.clearTidAddr = slot.value(clearTID)
    let list = slot.value(robustList, as: (UInt64, UInt64).self)
    core.thread.futexRla = list.0
    core.thread.futexRlaLen = UInt32(truncatingIfNeeded: list.1)
    let policy = slot.result(machineChecks)
    if policy >= 0, policy != Self.defaultPolicy { core.thread.mceKill = UInt32(truncatingIfNeeded: policy) }
    let mode = slot.value(counterMode, as: UInt32.self)
    if mode != Self.counterEnabled { core.thread.tscMode = mode }
  }

  public static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) {
    let core = thread.core.thread
    let comm = core.comm ?? thread.core.task.comm
    program.call(
      __NR_prctl, 15 /* PR_SET_NAME */, Argument(program.place(path: [UInt8](comm.prefix(15)))),
      for: "setting the thread's name")
    program.call(
      __NR_set_tid_address, Argument(thread.core.threadInfo?.clearTidAddr ?? 0),
      for: "setting the address to clear at exit")
    if core.futexRlaLen != 0 {
      program.call(
        __NR_set_robust_list, Argument(core.futexRla), Argument(core.futexRlaLen),
        for: "setting the robust futex list")
    }
    if let rseq = core.rseqEntry, rseq.rseqAbiPointer != 0 {
      program.call(
        __NR_rseq, Argument(rseq.rseqAbiPointer), Argument(rseq.rseqAbiSize), 0, Argument(rseq.signature),
        for: "registering restartable sequences at", rseq.rseqAbiPointer)
    }
    let policy = core.mceKill.map { Int($0) } ?? defaultPolicy
    if policy != defaultPolicy || ownPolicy >= 0 && ownPolicy != defaultPolicy {
      program.call(
        __NR_prctl, 33 /* PR_MCE_KILL */, 1 /* PR_MCE_KILL_SET */, Argument(policy), 0, 0, for: "setting what a machine check does")
    }
    if let mode = core.tscMode {
      program.call(__NR_prctl, 26 /* PR_SET_TSC */, Argument(mode), for: "setting the time stamp counter's mode")
    }
  }
}
