import CLinux
import Checkpoint
import Linux
import Tracee

/// A thread's alternate signal stack (man 2 sigaltstack).
public struct AlternateStack: TaskState {
  /// stack_t: pointer, flags, size
  private typealias KernelStack = (UInt64, UInt32, UInt32, UInt64)
  /// SS_ONSTACK says where the thread is now, SS_DISABLE that there is none; SS_AUTODISARM is bit 31.
  private static let onStack: UInt32 = 1

  private let stack: SyscallProgram.Buffer

  public init(asking program: inout SyscallProgram, in thread: DumpedThread) {
    stack = program.reserve(MemoryLayout<KernelStack>.size)
    program.call(__NR_sigaltstack, 0, Argument(stack.address), for: "reading the alternate signal stack")
  }

  public func record(from slot: Slot, of thread: DumpedThread, into core: inout CoreEntry) {
    let value = slot.value(stack, as: KernelStack.self)
    var entry = ThreadSasEntry()
    entry.ssSp = value.0
    entry.ssFlags = value.1 & ~Self.onStack
    entry.ssSize = value.3
    core.thread.sas = entry
  }

  /// As sigaltstack(2) would tell it (kernel/signal.c: do_sigaltstack).
  static func entry(_ noted: KernelThread) -> ThreadSasEntry {
    let (address, size, flags) = noted.alternateStack
    var entry = ThreadSasEntry()
    entry.ssSp = address
    entry.ssSize = size
    entry.ssFlags = (size == 0 ? 2 /* SS_DISABLE */ : 0) | flags & 1 << 31 /* SS_AUTODISARM */
    return entry
  }

  public static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) {
    guard let entry = thread.core.thread.sas else { return }
    let value: KernelStack = (entry.ssSp, entry.ssFlags & ~onStack, 0, entry.ssSize)
    program.call(
      __NR_sigaltstack, Argument(program.place(value)), 0, for: "setting the alternate signal stack")
  }
}
