import CLinux
import Checkpoint
import Glibc
import Linux
import Tracee

/// Signal dispositions (man 2 rt_sigaction), for every signal but SIGKILL and SIGSTOP.
public struct SignalActions: TaskState {
  private static let signals = (1...signalCount).filter { $0 != Int(SIGKILL) && $0 != Int(SIGSTOP) }

  /// struct sigaction as the kernel has it: handler, flags, restorer, mask.
  private typealias KernelAction = (UInt64, UInt64, UInt64, UInt64)

  private let actions: SyscallProgram.Buffer

  public init(asking program: inout SyscallProgram, in thread: DumpedThread) {
    actions = program.reserve(32 * Self.signals.count)
    for (i, signal) in Self.signals.enumerated() {
      program.call(
        __NR_rt_sigaction, Argument(signal), 0, Argument(actions.address + UInt64(32 * i)), 8,
        for: "reading the action of signal", UInt64(signal))
    }
  }

  public func record(from slot: Slot, of thread: DumpedThread, into core: inout CoreEntry) {
    let bytes = slot.bytes(actions)
    core.task.sigactions = Self.signals.indices.map { i in
      let action = bytes.loadUnaligned(fromByteOffset: 32 * i, as: KernelAction.self)
      var entry = SaEntry()
      (entry.sigaction, entry.flags, entry.restorer, entry.mask) = action
      return entry
    }
  }

  public static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) {
    for (signal, entry) in zip(signals, thread.core.task.sigactions) {
      // A stub has the default everywhere.
      if entry.sigaction == 0 && entry.flags == 0 && entry.mask == 0 { continue }
      let action: KernelAction = (entry.sigaction, entry.flags, entry.restorer, entry.mask)
      program.call(
        __NR_rt_sigaction, Argument(signal), Argument(program.place(action)), 0, 8,
        for: "setting the action of signal", UInt64(signal))
    }
  }
}
