import CLinux
import Glibc
import Linux

// System calls whose headers Swift's Glibc module leaves out. Like libc's they return -1 on failure.

private func call(_ number: Int32, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0) -> Int32 {
  let result = cl_syscall(Int(number), a, b, c, d, 0, 0)
  if result < 0 { errno = Int32(-result) }
  return result < 0 ? -1 : Int32(result)
}

func eventfd(_ value: UInt32, _ flags: Int32) -> Int32 { call(__NR_eventfd2, Int(value), Int(flags)) }

@discardableResult
func eventfd_write(_ fd: Int32, _ value: UInt64) -> Int32 {
  var value = value
  return write(fd, &value, 8) == 8 ? 0 : -1
}

func signalfd(mask: UInt64, _ flags: Int32) -> Int32 {
  var mask = mask
  return withUnsafeMutablePointer(to: &mask) {
    call(__NR_signalfd4, -1, Int(bitPattern: $0), 8, Int(flags))
  }
}

func timerfd_create(_ clock: clockid_t, _ flags: Int32) -> Int32 {
  call(__NR_timerfd_create, Int(clock), Int(flags))
}

func timerfd_settime(_ fd: Int32, _ flags: Int32, _ value: itimerspec) -> Int32 {
  var value = value
  return withUnsafeMutablePointer(to: &value) {
    call(__NR_timerfd_settime, Int(fd), Int(flags), Int(bitPattern: $0), 0)
  }
}

func timerfd_gettime(_ fd: Int32) -> itimerspec {
  var value = itimerspec()
  _ = withUnsafeMutablePointer(to: &value) { call(__NR_timerfd_gettime, Int(fd), Int(bitPattern: $0)) }
  return value
}

func epoll_create() -> Int32 { call(__NR_epoll_create1, 0) }

/// struct epoll_event, which is packed on x86-64.
private typealias Event = (events: UInt32, low: UInt32, high: UInt32)

func epoll_ctl(_ epoll: Int32, _ operation: Int, _ fd: Int32, _ events: UInt32, data: UInt64) -> Int32 {
  var event: Event = (
    events, UInt32(truncatingIfNeeded: data), UInt32(truncatingIfNeeded: data >> 32)
  )
  return withUnsafeMutablePointer(to: &event) {
    call(__NR_epoll_ctl, Int(epoll), operation, Int(fd), Int(bitPattern: $0))
  }
}

/// The data of the items that are ready, sorted.
func epoll_poll(_ epoll: Int32) -> [UInt64] {
  var events = [Event](repeating: (0, 0, 0), count: 64)
  let n = events.withUnsafeMutableBufferPointer {
    call(__NR_epoll_wait, Int(epoll), Int(bitPattern: $0.baseAddress), 64, 0)
  }
  return events.prefix(max(0, Int(n))).map { UInt64($0.low) | UInt64($0.high) << 32 }.sorted()
}
