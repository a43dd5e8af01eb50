import CLinux
import Checkpoint
import Linux
import Tracee

/// The three interval timers of a process (man 2 getitimer).
public struct IntervalTimers: TaskState {
  /// struct itimerval: interval seconds and microseconds, remaining seconds and microseconds
  private typealias KernelTimer = (UInt64, UInt64, UInt64, UInt64)

  private let timers: SyscallProgram.Buffer

  public init(asking program: inout SyscallProgram, in thread: DumpedThread) {
    timers = program.reserve(3 * 32)
    for which in 0..<3 {
      program.call(
        __NR_getitimer, Argument(which), Argument(timers.address + UInt64(32 * which)),
        for: "reading an interval timer")
    }
  }

  public func record(from slot: Slot, of thread: DumpedThread, into core: inout CoreEntry) {
    let bytes = slot.bytes(timers)
    func entry(_ which: Int) -> ItimerEntry {
      let value = bytes.loadUnaligned(fromByteOffset: 32 * which, as: KernelTimer.self)
      var entry = ItimerEntry()
      (entry.isec, entry.iusec, entry.vsec, entry.vusec) = value
      return entry
    }
    var timers = core.task.timers ?? TaskTimersEntry()
    timers.real = entry(0)
    timers.virt = entry(1)
    timers.prof = entry(2)
    core.task.timers = timers
  }

  public static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) {
    guard let timers = thread.core.task.timers else { return }
    for (which, entry) in [timers.real, timers.virt, timers.prof].enumerated() {
      var value: KernelTimer = (entry.isec, entry.iusec, entry.vsec, entry.vusec)
      if value.2 == 0 && value.3 == 0 {
        if value.0 == 0 && value.1 == 0 { continue }
        // It has expired and its signal is pending: it is armed anew when that is taken (kernel/time/itimer.c:
        // posixtimer_rearm_itimer). Here by at most an interval earlier, which makes one signal of two.
        (value.2, value.3) = (value.0, value.1)
      }
      program.call(
        __NR_setitimer, Argument(which), Argument(program.place(value)), 0, for: "arming an interval timer")
    }
  }
}
