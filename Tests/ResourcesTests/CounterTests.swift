import CLinux
import Checkpoint
import Glibc
import Linux
import Testing

@testable import Resources

extension Kinds {
  @Test(arguments: [UInt64(0), 7, 1 << 40, UInt64.max - 1]) func eventFDKeepsItsCounter(_ value: UInt64)
    throws
  {
    for flags in [0, O_NONBLOCK, 1 /* EFD_SEMAPHORE */] {
      let fd = eventfd(0, flags)
      defer { close(fd) }
      if value > 0 { try #require(eventfd_write(fd, value) == 0) }
      try expectSame([fd])
    }
  }

  @Test func signalFDKeepsItsMask() throws {
    let mask: UInt64 = 1 << 63 | 1 << 11  // signals 64 and 12
    let fd = signalfd(mask: mask, O_NONBLOCK)
    defer { close(fd) }
    let trip = try expectSame([fd])
    #expect(try trip.entry(0).sgfd?.sigmask == mask)
  }

  /// Seconds and nanoseconds that are left and between two expirations, and expirations that can be read.
  private func timer(_ fd: Int32) -> (left: Double, interval: Double, ticks: UInt64) {
    let value = timerfd_gettime(fd)
    func seconds(_ t: timespec) -> Double { Double(t.tv_sec) + Double(t.tv_nsec) / 1e9 }
    var ticks: UInt64 = 0
    read(fd, &ticks, 8)
    return (seconds(value.it_value), seconds(value.it_interval), ticks)
  }

  private func makeTimer(_ clock: clockid_t, _ flags: Int32, first: timespec, interval: timespec) throws
    -> Int32
  {
    let fd = timerfd_create(clock, O_NONBLOCK)
    var value = itimerspec(it_interval: interval, it_value: first)
    if flags & 1 != 0 {
      var now = timespec()
      clock_gettime(clock, &now)
      value.it_value.tv_sec += now.tv_sec
    }
    try #require(timerfd_settime(fd, flags, value) == 0)
    return fd
  }

  /// Relative, absolute, and absolute and cancelled when the clock is set.
  @Test(
    arguments: [
      (CLOCK_MONOTONIC, 0), (CLOCK_BOOTTIME, 1), (CLOCK_REALTIME, 1), (CLOCK_REALTIME, 3),
    ] as [(clockid_t, Int32)])
  func timerFDKeepsTheTimeThatIsLeft(_ clock: clockid_t, _ flags: Int32) throws {
    let fd = try makeTimer(
      clock, flags, first: timespec(tv_sec: 100, tv_nsec: 0), interval: timespec(tv_sec: 3, tv_nsec: 5))
    defer { close(fd) }
    let trip = try RoundTrip([fd])
    let again = try trip.descriptors()[0]
    #expect(
      try state(again).filter { !$0.hasPrefix("it_value") } == state(fd).filter { !$0.hasPrefix("it_value") })
    let (was, now) = (timer(fd), timer(again))
    #expect(abs(was.left - now.left) < 0.5 && now.left > 90)
    #expect(was.interval == now.interval && now.ticks == 0)
  }

  @Test func timerFDKeepsExpirationsThatNobodyRead() throws {
    let fd = try makeTimer(
      CLOCK_MONOTONIC, 0, first: timespec(tv_sec: 0, tv_nsec: 1),
      interval: timespec(tv_sec: 0, tv_nsec: 1 << 26))
    defer { close(fd) }
    // It expires at once, and twice more until the dump asks, although the kernel counts these only then.
    usleep(150_000)
    let trip = try RoundTrip([fd])
    let recorded = try #require(try trip.entry(0).tfd)
    #expect(recorded.ticks == 3)
    #expect(recorded.vsec == 0 && recorded.vnsec > 0)
    let again = timer(try trip.descriptors()[0])
    #expect(again.ticks >= 3 && again.left > 0)
  }

  /// Its time is over, but the interrupt that tells so is still to come: on another processor, which sleeps.
  @Test func timerFDThatIsAboutToExpireTicksOn() throws {
    let fd = timerfd_create(CLOCK_MONOTONIC, O_NONBLOCK)
    defer { close(fd) }
    let companion = Companion()
    companion.hire()
    for round in 0..<20_000 {
      companion.start { () throws(Failure) in
        let first = timespec(tv_sec: 0, tv_nsec: 20_000 + round % 1000 * 60)
        _ = timerfd_settime(fd, 0, itimerspec(it_interval: timespec(tv_sec: 0, tv_nsec: 1 << 26), it_value: first))
      }
      try companion.wait()
      var entry = TimerfdEntry()
      var patience = 80
      try #require(try TimerFD.state(of: fd, into: &entry, &patience))
      try #require(entry.vnsec > 0, "round \(round): \(entry.ticks) expirations")
    }
  }

  @Test func timerFDThatExpiredOnceStaysExpired() throws {
    let fd = try makeTimer(
      CLOCK_MONOTONIC, 0, first: timespec(tv_sec: 0, tv_nsec: 1), interval: timespec())
    defer { close(fd) }
    usleep(1000)
    try expectSame([fd])
  }

  @Test func timerFDThatIsNotSetStaysSo() throws {
    let fd = timerfd_create(CLOCK_MONOTONIC, 0)
    defer { close(fd) }
    try expectSame([fd])
  }
}
