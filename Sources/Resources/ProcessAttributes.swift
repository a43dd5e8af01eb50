import CLinux
import Checkpoint
import Linux
import Tracee

/// What a process sets with prctl, personality and membarrier.
public struct ProcessAttributes: TaskState {
  /// MEMBARRIER_CMD_GET_REGISTRATIONS of linux/membarrier.h
  private static let getRegistrations = 1 << 9

  private let personality: SyscallProgram.Call
  private let subreaper: SyscallProgram.Buffer
  private let membarrier: SyscallProgram.Call
  private let merging: SyscallProgram.Call

  public init(asking program: inout SyscallProgram, in thread: DumpedThread) {
    personality = program.call(__NR_personality, 0xffff_ffff, for: "reading the personality")
    subreaper = program.reserve(8)
    program.call(
      __NR_prctl, 37 /* PR_GET_CHILD_SUBREAPER */, Argument(subreaper.address),
      for: "reading the subreaper flag")
    // Before Linux 6.3 the kernel does not tell.
    membarrier = program.call(__NR_membarrier, Argument(Self.getRegistrations), 0, 0, mayFail: true)
    // Since Linux 6.4, with CONFIG_KSM.
    merging = program.call(__NR_prctl, 68 /* PR_GET_MEMORY_MERGE */, 0, 0, 0, 0, mayFail: true)
  }

  public func record(from slot: Slot, of thread: DumpedThread, into core: inout CoreEntry) {
    core.task.personality = UInt32(truncatingIfNeeded: slot.result(personality))
    core.task.childSubreaper = slot.value(subreaper, as: UInt32.self) != 0
    let registrations = slot.result(membarrier)
    if registrations > 0 { core.task.membarrierRegistrationMask = UInt32(truncatingIfNeeded: registrations) }
    if slot.result(merging) == 1 { core.task.memoryMerge = true }
  }

  /// Stubs inherit it from this process.
  private static let isMerging = cl_syscall(Int(__NR_prctl), 68, 0, 0, 0, 0, 0) == 1

  public static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) {
    let core = thread.core.task
    // An exec changes some bits of a personality that is not 0.
    if core.personality != 0 || thread.stub?.personality != 0 {
      program.call(__NR_personality, Argument(core.personality), for: "setting the personality")
    }
    if core.childSubreaper == true {
      program.call(__NR_prctl, 36 /* PR_SET_CHILD_SUBREAPER */, 1, for: "becoming a subreaper")
    }
    if (core.memoryMerge ?? false) != isMerging {
      program.call(
        __NR_prctl, 67 /* PR_SET_MEMORY_MERGE */, Argument(isMerging ? 0 : 1), 0, 0, 0, for: "setting whether its memory is merged")
    }
    // Each bit is the command that registers; MEMBARRIER_CMD_GLOBAL_EXPEDITED's own bit needs none.
    let mask = core.membarrierRegistrationMask ?? 0
    for bit in [2, 4, 6, 8] where mask & (1 << bit) != 0 {
      program.call(
        __NR_membarrier, Argument(1 << bit), 0, 0, for: "registering for membarrier command", UInt64(1 << bit)
      )
    }
  }
}
