import CLinux
import Glibc
import Linux
import Testing

@testable import Resources

extension Kinds {
  private func withFifo(_ body: (String) throws -> Void) throws {
    let folder = try TemporaryDirectory()
    let path = folder.path + "/fifo"
    try #require(mkfifo(path, 0o600) == 0)
    try withExtendedLifetime(folder) { try body(path) }
  }

  @Test func fifoKeepsItsEndsAndWhatIsInIt() throws {
    try withFifo { path in
      let ends = [
        open(path, O_RDONLY | O_NONBLOCK), open(path, O_WRONLY), open(path, O_RDONLY), open(path, O_RDWR),
      ]
      #expect(fcntl(ends[0], Int32(F_SETPIPE_SZ), 8192) == 8192)
      #expect(write(ends[1], "content", 7) == 7)
      let trip = try RoundTrip(ends)
      // Nobody else may hold the pipe, or it would still be full.
      let before = try ends.map(state)
      ends.forEach { close($0) }
      let again = try trip.descriptors()
      #expect(try again.map(state) == before)
      #expect(try readlink("/proc/self/fd/\(again[2])").text == path)
      #expect(fcntl(again[2], Int32(F_GETPIPE_SZ)) == 8192)
      #expect(contents(again[0]) == Array("content".utf8))
      #expect(write(again[1], "more", 4) == 4)
      #expect(contents(again[2]) == Array("more".utf8))
    }
  }

  @Test func fifoThatSomebodyElseKeptIsNotFilledTwice() throws {
    try withFifo { path in
      let both = open(path, O_RDWR)
      defer { close(both) }
      #expect(write(both, "once", 4) == 4)
      let again = try RoundTrip([both]).descriptors()[0]
      #expect(contents(again) == Array("once".utf8))
    }
  }

  /// A reader that no writer came to yet sees no hang-up, before and after.
  @Test func fifoReaderStillWaitsForItsFirstWriter() throws {
    try withFifo { path in
      let reader = open(path, O_RDONLY | O_NONBLOCK)
      let trip = try RoundTrip([reader])
      close(reader)
      var poll = pollfd(fd: try trip.descriptors()[0], events: Int16(POLLIN), revents: 0)
      #expect(Glibc.poll(&poll, 1, 0) == 0)
    }
  }

  @Test func fifoWithoutANameIsNoObstacle() throws {
    try withFifo { path in
      let both = open(path, O_RDWR)
      defer { close(both) }
      unlink(path)
      let file = try dumped(both)
      #expect(Fifo.objection(file, DumpOptions()) == nil)
    }
  }
}
