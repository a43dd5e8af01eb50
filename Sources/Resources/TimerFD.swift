import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// Timers that are read from a descriptor (man 2 timerfd_create). The image has the time that was left, also of timers
/// that were set to a point in time: such a one is set to expire as long after the restore.
public enum TimerFD: FileKind {
  public static let type = FdTypes.timerfd

  private static let absolute: UInt32 = 1  // TFD_TIMER_ABSTIME
  private static let setTicks = 0x4008_5400  // TFD_IOC_SET_TICKS
  /// struct itimerspec: interval seconds and nanoseconds, value seconds and nanoseconds
  private typealias KernelTimer = (interval: (Int64, Int64), value: (Int64, Int64))

  public static func matches(_ file: DumpedFile) -> Bool {
    file.link.elementsEqual("anon_inode:[timerfd]".utf8)
  }

  public static func record(_ file: DumpedFile, id: UInt32, _ dump: DumpContext) throws(Failure) -> FileEntry {
    var timer = TimerfdEntry()
    timer.id = id
    timer.flags = file.info.flags & descriptionFlags
    try about(file.description) { () throws(Failure) in
      let duplicate = try file.duplicate()
      timer.fown = try about("reading its owner") { () throws(Errno) in
        try FownEntry(of: duplicate.rawValue)
      }
      guard try state(of: duplicate.rawValue, into: &timer, &dump.timerPatience) else {
        throw Failure("its fdinfo does not say what the timer is set to")
      }
    }
    var entry = FileEntry(type, id)
    entry.tfd = timer
    return entry
  }

  /// Reads the timer from the fdinfo of a descriptor of this process; false if something is missing there. `patience`: so many
  /// milliseconds may be waited besides the few that each timer is worth.
  static func state(of fd: Int32, into timer: inout TimerfdEntry, _ patience: inout Int) throws(Failure) -> Bool {
    var pauses = 2
    for attempt in 0..<200 {
      let info = try about("reading its timer") { () throws(Errno) in
        // A periodic timer that has expired stands still, with no time left, until it is read or asked for its
        // time (fs/timerfd.c: timerfd_fetch and do_timerfd_gettime); what it counted stays to be read.
        var time: KernelTimer = ((0, 0), (0, 0))
        try withUnsafeMutablePointer(to: &time) { pointer throws(Errno) in
          _ = try syscall(__NR_timerfd_gettime, Int(fd), Int(bitPattern: pointer))
        }
        return try FdInfo(ofOwn: fd)
      }
      guard let clock = info.number("clockid"), let ticks = info.number("ticks"),
        let flags = info.number("settime flags", radix: 8), let left = info.pair("it_value"),
        let interval = info.pair("it_interval")
      else { return false }
      timer.clockid = UInt32(truncatingIfNeeded: clock)
      timer.ticks = ticks
      timer.settimeFlags = UInt32(truncatingIfNeeded: flags)
      (timer.vsec, timer.vnsec) = left
      (timer.isec, timer.insec) = interval
      // It may have expired between the two questions; then it stands still again. Or its time is over, and it expires in a
      // moment, when a processor that sleeps has been woken for it; one that never does is not armed.
      if left != (0, 0) || interval == (0, 0) { return true }
      guard ticks == 0, attempt >= 20 else { continue }
      if pauses == 0, patience == 0 { return true }
      if pauses > 0 { pauses -= 1 } else { patience -= 1 }
      usleep(1000)
    }
    throw Failure("its timer expires faster than it can be read")
  }

  public static func check(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) {
    let timer = try entry.part(entry.tfd)
    guard timer.vnsec < 1_000_000_000, timer.insec < 1_000_000_000, timer.vsec <= UInt64(Int64.max) / 2,
      timer.isec <= UInt64(Int64.max) / 2
    else { throw Failure("files.img: timerfd \(entry.id) has a time that is out of range") }
    if let clock = PosixTimers.plainClock(of: timer.clockid), !restore.privileges.machine.contains(.wakeAlarm) {
      restore.concessions.add("it wakes the machine: needs CAP_WAKE_ALARM", of: "timerfd \(entry.id)")
      restore.files[entry.id]?.tfd?.clockid = clock
    }
  }

  public static func open(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    let timer = try entry.part(entry.tfd)
    return try about("timerfd \(entry.id)") { () throws(Failure) -> Descriptor in
      let descriptor = try about("timerfd_create of clock \(timer.clockid)") { () throws(Errno) in
        Descriptor(Int32(try syscall(__NR_timerfd_create, Int(timer.clockid), Int(O_CLOEXEC))))
      }
      let fd = descriptor.rawValue
      try about("setting its timer") { () throws(Errno) in try set(fd, timer) }
      if timer.ticks != 0 {
        try about("setting its unread expirations", advice: "The kernel needs CONFIG_CHECKPOINT_RESTORE.") {
          () throws(Errno) in
          var ticks = timer.ticks
          try withUnsafeMutablePointer(to: &ticks) { pointer throws(Errno) in
            _ = try syscall(__NR_ioctl, Int(fd), setTicks, Int(bitPattern: pointer))
          }
        }
      }
      try about("setting its owner") { () throws(Errno) in
        try timer.fown.restore(to: fd, flags: timer.flags)
      }
      return descriptor
    }
  }

  private static func set(_ fd: Int32, _ timer: TimerfdEntry) throws(Errno) {
    var seconds = Int64(truncatingIfNeeded: timer.vsec)
    var nanos = Int64(truncatingIfNeeded: timer.vnsec)
    let isArmed = seconds != 0 || nanos != 0
    if isArmed && timer.settimeFlags & absolute != 0 {
      var now = timespec()
      guard clock_gettime(clockid_t(timer.clockid), &now) == 0 else { throw Errno(rawValue: errno) }
      nanos += Int64(now.tv_nsec)
      seconds += Int64(now.tv_sec) + nanos / 1_000_000_000
      nanos %= 1_000_000_000
    }
    let interval = (Int64(truncatingIfNeeded: timer.isec), Int64(truncatingIfNeeded: timer.insec))
    var value: KernelTimer = (interval, (seconds, nanos))
    try withUnsafeMutablePointer(to: &value) { pointer throws(Errno) in
      _ = try syscall(
        __NR_timerfd_settime, Int(fd), Int(timer.settimeFlags), Int(bitPattern: pointer), 0)
    }
  }
}

extension FdInfo {
  /// The fdinfo of a descriptor of this process.
  init(ofOwn fd: Int32) throws(Errno) {
    let file = try Descriptor.open("/proc/self/fdinfo/\(fd)")
    let buffer = ReadBuffer()
    self = try withExtendedLifetime(buffer) { () throws(Errno) in
      FdInfo(try buffer.readAll(file.rawValue))
    }
  }

  /// Two numbers in parentheses after `key:`: seconds and nanoseconds.
  fileprivate func pair(_ key: String) -> (UInt64, UInt64)? {
    guard let text = value(key), text.hasPrefix("("), text.hasSuffix(")") else { return nil }
    let parts = text.dropFirst().dropLast().split(separator: ",")
    guard parts.count == 2, let first = UInt64(parts[0]), let second = UInt64(parts[1].drop { $0 == " " })
    else { return nil }
    return (first, second)
  }
}
