import CLinux
import Checkpoint
import Linux
import SystemPackage
import Tracee

/// POSIX per-process timers (man 2 timer_create), with their IDs.
public struct PosixTimers: TaskState {
  /// struct itimerspec: interval seconds and nanoseconds, remaining seconds and nanoseconds
  private typealias KernelTimer = (UInt64, UInt64, UInt64, UInt64)
  /// PR_TIMER_CREATE_RESTORE_IDS of linux/prctl.h: timer_create takes the ID from where it would write it.
  private static let restoreIDs = 77

  private var asked: [(entry: PosixTimerEntry, time: SyscallProgram.Buffer, overrun: SyscallProgram.Call)] =
    []

  public init(asking program: inout SyscallProgram, in thread: DumpedThread) {
    for entry in thread.task?.posixTimers ?? [] {
      let time = program.reserve(32)
      program.call(
        __NR_timer_gettime, Argument(entry.itId), Argument(time.address), for: "reading timer",
        UInt64(entry.itId))
      let overrun = program.call(
        __NR_timer_getoverrun, Argument(entry.itId), for: "reading timer", UInt64(entry.itId))
      asked.append((entry, time, overrun))
    }
  }

  public func record(from slot: Slot, of thread: DumpedThread, into core: inout CoreEntry) {
    var timers = core.task.timers ?? TaskTimersEntry()
    timers.posix = asked.map { timer in
      var entry = timer.entry
      (entry.isec, entry.insec, entry.vsec, entry.vnsec) = slot.value(timer.time, as: KernelTimer.self)
      entry.overrun = UInt32(truncatingIfNeeded: slot.result(timer.overrun))
      return entry
    }
    core.task.timers = timers
  }

  public static func concede(_ core: inout CoreEntry, to stub: StubState, _ may: Privileges) -> [String] {
    guard !may.machine.contains(.wakeAlarm), var timers = core.tc?.timers else { return [] }
    var denied: [String] = []
    for i in timers.posix.indices {
      guard let clock = plainClock(of: timers.posix[i].clockId) else { continue }
      denied.append("timer \(timers.posix[i].itId) that wakes the machine: needs CAP_WAKE_ALARM")
      timers.posix[i].clockId = clock
    }
    core.tc?.timers = timers
    return denied
  }

  /// The clock that goes as CLOCK_REALTIME_ALARM or CLOCK_BOOTTIME_ALARM does, and wakes nobody; `nil` for other clocks.
  static func plainClock(of clock: UInt32) -> UInt32? { clock == 8 ? 0 : clock == 9 ? 7 : nil }

  public static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) {
    guard let timers = thread.core.task.timers?.posix, !timers.isEmpty else { return }
    program.call(__NR_prctl, Argument(restoreIDs), 1, for: "asking for timers by ID")
    for entry in timers {
      // struct sigevent: value, signo, notify, thread ID, 64 bytes altogether
      var event = [UInt8](repeating: 0, count: 64)
      event.withUnsafeMutableBytes {
        $0.storeBytes(of: entry.sivalPtr, as: UInt64.self)
        $0.storeBytes(of: entry.siSigno, toByteOffset: 8, as: UInt32.self)
        $0.storeBytes(of: entry.itSigevNotify, toByteOffset: 12, as: UInt32.self)
        $0.storeBytes(
          of: entry.notifyThreadId ?? Int32(bitPattern: thread.tid), toByteOffset: 16, as: Int32.self)
      }
      let id = program.place(entry.itId)
      program.call(
        __NR_timer_create, Argument(Int32(bitPattern: entry.clockId)), Argument(program.place(event)),
        Argument(id),
        for: "making timer", UInt64(entry.itId))
      if entry.vsec != 0 || entry.vnsec != 0 {
        let value: KernelTimer = (entry.isec, entry.insec, entry.vsec, entry.vnsec)
        program.call(
          __NR_timer_settime, Argument(entry.itId), 0, Argument(program.place(value)), 0,
          for: "arming timer", UInt64(entry.itId))
      }
    }
    program.call(__NR_prctl, Argument(restoreIDs), 0, for: "asking for timers by ID no more")
  }

  /// The timers of a process, without their times, from `/proc/PID/timers` (man 5 proc_pid_timers).
  public static func list(_ text: UnsafeRawBufferPointer) -> [PosixTimerEntry] {
    var entries: [PosixTimerEntry] = []
    var cursor = ByteCursor(text)
    while !cursor.atEnd {
      let key = cursor.upTo(UInt8(ascii: ":"))
      cursor.skipBlanks()
      var value = ByteCursor(cursor.line())
      if key.elementsEqual("ID".utf8) {
        var entry = PosixTimerEntry()
        entry.itId = UInt32(truncatingIfNeeded: value.unsigned())
        entries.append(entry)
        continue
      }
      guard !entries.isEmpty else { continue }
      let last = entries.count - 1
      if key.elementsEqual("signal".utf8) {
        entries[last].siSigno = UInt32(truncatingIfNeeded: value.unsigned())
        value.skip()
        entries[last].sivalPtr = value.hex()
      } else if key.elementsEqual("notify".utf8) {
        // SIGEV_SIGNAL 0, SIGEV_NONE 1, SIGEV_THREAD 2; SIGEV_THREAD_ID 4 is a bit of its own
        var notify: UInt32 = value.startsWith("none") ? 1 : value.startsWith("thread") ? 2 : 0
        _ = value.upTo(UInt8(ascii: "/"))
        let isThread = value.startsWith("tid")
        _ = value.upTo(UInt8(ascii: "."))
        if isThread {
          notify |= 4
          entries[last].notifyThreadId = Int32(truncatingIfNeeded: value.decimal())
        }
        entries[last].itSigevNotify = notify
      } else if key.elementsEqual("ClockID".utf8) {
        entries[last].clockId = UInt32(bitPattern: Int32(truncatingIfNeeded: value.decimal()))
      }
    }
    return entries
  }
}
