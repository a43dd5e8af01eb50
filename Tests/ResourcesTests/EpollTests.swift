import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Testing
import Tracee

@testable import Resources

/// A program that holds descriptors under chosen numbers, and adds the items of its epoll instances from inside.
private final class Holder {
  let pid: pid_t

  init(_ descriptors: [(number: Int32, from: Int32)]) throws {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    for (number, from) in descriptors { posix_spawn_file_actions_adddup2(&actions, from, number) }
    var pid: pid_t = 0
    let argv: [UnsafeMutablePointer<CChar>?] = [strdup("sleep"), strdup("100"), nil]
    try #require(posix_spawnp(&pid, "sleep", &actions, nil, argv, environ) == 0)
    self.pid = pid
    // Until it sleeps it opens libraries.
    usleep(100_000)
  }

  deinit {
    kill(pid, SIGKILL)
    var status: Int32 = 0
    waitpid(pid, &status, 0)
  }

  /// Adds what is this task's to add, in place of the recorded task `recorded`.
  func complete(
    _ trip: RoundTrip, _ epolls: [(entry: FileEntry, number: Int32)], as recorded: pid_t = getpid()
  ) throws {
    let buffer = ReadBuffer()
    let directory = try ProcDirectory(pid: pid)
    let maps = try withExtendedLifetime(buffer) { Mapping.parse(try directory.read("maps", buffer)) }
    let vdso = try #require(maps.first { $0.name.text == "[vdso]" })
    let thread = try TracedThread(seizing: pid)
    #expect(try thread.awaitStop())
    let process = try TracedProcess(pid: pid, threads: [thread], vdso: vdso.start)
    try process.open(DeadManSwitch())
    let slot = try #require(process.area?.slots.first)
    slot.load(SyscallProgram(for: slot))
    try process.enter(process.threads.indices)
    try process.waitAll()
    let task = RestoredThread(
      core: CoreImage(CoreEntry()), isLeader: true, pid: UInt32(recorded), tid: UInt32(recorded), slot: slot)
    repeat {
      var program = SyscallProgram(for: slot)
      for (entry, number) in epolls {
        try Epoll.complete(entry, number: number, in: task, trip.restore, &program)
      }
      try process.run(program)
    } while !trip.restore.unfinished.isEmpty
    process.close()
    process.detach()
  }

  /// The interest list as the kernel shows it, in a fixed order, and without inode numbers of pipes.
  func items(_ number: Int32) throws -> [String] { try interestList("/proc/\(pid)/fdinfo/\(number)") }

  /// Its descriptors, and their flags.
  func table() throws -> [String] {
    let buffer = ReadBuffer()
    let directory = try ProcDirectory(pid: pid)
    return try directory.numbers(in: "fd", buffer).map { number in
      let link = try directory.link("fd/\(number)").text
      let info = try withExtendedLifetime(buffer) { FdInfo(try directory.read("fdinfo/\(number)", buffer)) }
      return "\(number) \(link) \(info.flags)"
    }
  }
}

private func interestList(_ fdinfo: String) throws -> [String] {
  let buffer = ReadBuffer()
  let file = try Descriptor.open(fdinfo)
  let info = try withExtendedLifetime(buffer) { FdInfo(try buffer.readAll(file.rawValue)) }
  return info.lines.map { $0.text.split(separator: " ").prefix(6).joined(separator: " ") }.sorted()
}

extension Kinds {
  private func add(_ epoll: Int32, _ number: Int32, _ events: UInt32, data: UInt64 = 0) {
    #expect(epoll_ctl(epoll, 1, number, events, data: data) == 0)
  }

  /// Puts descriptors under chosen numbers of this process for the time of the test.
  private func withDescriptors(_ numbers: [Int32], _ make: () throws -> [Int32], _ body: () throws -> Void)
    throws
  {
    let made = try make()
    for (fd, number) in zip(made, numbers) {
      #expect(dup2(fd, number) == number)
      close(fd)
    }
    defer { numbers.forEach { close($0) } }
    try body()
  }

  private func pipeEnds() -> [Int32] {
    var ends: [Int32] = [-1, -1]
    pipe(&ends)
    return ends
  }

  private static let edge: UInt32 = 1 << 31
  private static let oneShot: UInt32 = 1 << 30
  private static let exclusive: UInt32 = 1 << 28

  @Test func epollKeepsItsInterestList() throws {
    let numbers: [Int32] = [200, 201, 202, 203, 204, 205]
    try withDescriptors(
      numbers, { pipeEnds() + [eventfd(1, 0), eventfd(0, 0), epoll_create(), epoll_create()] }
    ) {
      let (epoll, inner) = (Int32(204), Int32(205))
      dup2(202, 206)  // the same description under two numbers
      defer { close(206) }
      add(epoll, 200, Self.edge | 0x1, data: 1)
      add(epoll, 201, Self.oneShot | 0x4, data: .max)
      add(epoll, 202, Self.exclusive | 0x1, data: 3)
      add(epoll, 206, 0x5 | Self.edge, data: 4)
      add(epoll, inner, 0x1, data: 5)
      add(inner, 203, 0x1, data: 1 << 40)
      #expect(fcntl(epoll, F_SETFL, O_NONBLOCK) == 0)
      let all = numbers + [206]
      let trip = try RoundTrip(all)
      #expect(trip.ids[2] == trip.ids[6])
      let made = try trip.descriptors()
      #expect(fcntl(made[4], F_GETFL) == O_RDWR | O_NONBLOCK)
      let holder = try Holder(Array(zip(all, made)))
      try holder.complete(trip, [(try trip.entry(4), epoll), (try trip.entry(5), inner)])
      #expect(try holder.items(epoll) == interestList("/proc/self/fdinfo/\(epoll)"))
      #expect(try holder.items(inner) == interestList("/proc/self/fdinfo/\(inner)"))
      #expect(epoll_poll(made[4]) == epoll_poll(epoll))
      eventfd_write(made[3], 1)
      #expect(epoll_poll(made[4]).contains(5) && epoll_poll(made[5]) == [1 << 40])
    }
  }

  /// One item of a file that is ready, one of an empty pipe.
  @Test func epollItemThatDeliveredItsEventStaysDisarmed() throws {
    try withDescriptors([200, 201, 202, 203], { pipeEnds() + [eventfd(1, 0), epoll_create()] }) {
      add(203, 200, Self.oneShot | Self.edge | 0x1, data: 1)
      add(203, 202, Self.oneShot | 0x1, data: 2)
      add(203, 201, 0x4 | Self.edge, data: 3)
      write(201, "x", 1)
      #expect(epoll_poll(203) == [1, 2, 3])
      _ = contents(200)
      #expect(epoll_poll(203) == [])
      let trip = try RoundTrip([200, 201, 202, 203])
      let made = try trip.descriptors()
      let holder = try Holder(Array(zip([200, 201, 202, 203], made)))
      try holder.complete(trip, [(try trip.entry(3), 203)])
      // An edge that the program has seen may come once more, nothing else may.
      #expect(epoll_poll(made[3]) == [3])
      write(made[1], "x", 1)
      #expect(epoll_poll(made[3]) == [])
      #expect(try holder.items(203).contains("tfd: 202 events: 40000000 data: 2"))
    }
  }

  /// A number that was closed while a duplicate keeps the file, and one that was used again for another file.
  @Test func epollItemOutlivesItsNumber() throws {
    let numbers: [Int32] = [200, 201, 202, 203]
    try withDescriptors(numbers, { [eventfd(1, 0), eventfd(0, 0), eventfd(3, 0), epoll_create()] }) {
      dup2(200, 210)
      defer { close(210) }
      add(203, 210, 0x1, data: 10)
      close(210)
      add(203, 201, 0x1, data: 11)
      dup2(201, 211)
      defer { close(211) }
      dup2(202, 201)
      #expect(fcntl(201, F_SETFD, FD_CLOEXEC) == 0)
      add(203, 201, 0x1, data: 12)
      let all: [Int32] = [200, 201, 202, 203, 211]
      let trip = try RoundTrip(all)
      let items = try #require(try trip.entry(3).epfd).tfd
      #expect(items.first { $0.data == 10 }?.source == 200)
      #expect(items.first { $0.data == 11 }?.source == 211)
      #expect(items.first { $0.data == 12 }?.source == nil)
      let made = try trip.descriptors()
      let holder = try Holder(Array(zip(all, made)))
      let table = try holder.table()
      try holder.complete(trip, [(try trip.entry(3), 203)])
      try Epoll.finish(trip.restore)
      #expect(try holder.items(203) == interestList("/proc/self/fdinfo/203"))
      #expect(try holder.table() == table)
      #expect(epoll_poll(made[3]) == [10, 12])
    }
  }

  /// Two tasks share an instance, and each has the file of one item.
  @Test func epollItemsAreAddedByTheTaskThatHasTheFile() throws {
    try withDescriptors([200, 201, 203], { [eventfd(1, 0), eventfd(2, O_NONBLOCK), epoll_create()] }) {
      add(203, 200, 0x1, data: 1)
      add(203, 201, 0x1, data: 2)
      let other = try Holder([(201, 201), (213, 203)])
      // This process has the file only until its description is recorded.
      let trip = try RoundTrip([200, 201, 203], processes: [getpid(), other.pid]) {
        if $0 == 201 { close(201) }
      }
      let items = try #require(try trip.entry(2).epfd).tfd
      #expect(items.first { $0.data == 1 }?.adder == nil)
      #expect(items.first { $0.data == 2 }?.adder == UInt32(other.pid))
      let made = try trip.descriptors()
      let tasks = [
        try Holder([(200, made[0]), (203, made[2])]), try Holder([(201, made[1]), (213, made[2])]),
      ]
      let entry = try trip.entry(2)
      try tasks[0].complete(trip, [(entry, 203)])
      #expect(throws: Failure.self) { try Epoll.finish(trip.restore) }
      try tasks[1].complete(trip, [(entry, 213)], as: other.pid)
      try Epoll.finish(trip.restore)
      #expect(try tasks[0].items(203) == interestList("/proc/self/fdinfo/203"))
      #expect(epoll_poll(made[2]) == [1, 2])
    }
  }

  @Test func epollItemOfAFileThatNobodyHoldsIsRefused() throws {
    try withDescriptors([200, 203], { [eventfd(1, 0), epoll_create()] }) {
      // A child keeps the file open; it is not part of the tree.
      let holder = try Holder([(200, 200)])
      add(203, 200, 0x1)
      close(200)
      #expect { try RoundTrip([203]) } throws: {
        "\($0)".contains("its item for descriptor 200 watches a file that no task of the tree has open")
      }
      _ = holder
    }
  }

  /// More items than a program has room for: one file under many numbers.
  @Test func epollWithManyItems() throws {
    try withDescriptors([200, 203], { [eventfd(0, 0), epoll_create()] }) {
      let targets = (300..<800).map { Int32($0) }
      targets.forEach { dup2(200, $0) }
      defer { targets.forEach { close($0) } }
      for target in targets { add(203, target, 0x1 | Self.edge, data: UInt64(target)) }
      let trip = try RoundTrip(targets + [203])
      let made = try trip.descriptors()
      let holder = try Holder(Array(zip(targets + [203], made)))
      try holder.complete(trip, [(try trip.entry(500), 203)])
      #expect(try holder.items(203) == interestList("/proc/self/fdinfo/203"))
    }
  }
}
