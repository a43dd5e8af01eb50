import CLinux
import Glibc
import Linux
import Testing

@testable import Resources

extension Kinds {
  private func pty() throws -> (master: Int32, slave: Int32) {
    let master = open("/dev/ptmx", O_RDWR | O_NOCTTY)
    var locked: Int32 = 0
    var number: Int32 = -1
    try #require(ioctl(master, 0x4004_5431 /* TIOCSPTLCK */, &locked) == 0)
    try #require(ioctl(master, 0x8004_5430 /* TIOCGPTN */, &number) == 0)
    return (master, open("/dev/pts/\(number)", O_RDWR | O_NOCTTY))
  }

  @Test func terminalNeedsShellJob() throws {
    let (master, slave) = try pty()
    defer { _ = [master, slave].map { close($0) } }
    let file = try dumped(slave)
    #expect(try kind(of: file) == Terminal.self)
    #expect(Terminal.objection(file, DumpOptions()) == "a terminal (shell-job)")
    #expect(try Terminal.objection(dumped(master), DumpOptions()) == "a pty master (pty)")
    #expect(throws: Failure.self) { try RoundTrip([slave]) }
  }

  /// The test's own standard input becomes a terminal for a while: another than the recorded one.
  @Test func terminalBecomesTheOneOfTheRestore() throws {
    let (master, slave) = try pty()
    let own = try pty()
    let input = dup(0)
    dup2(own.slave, 0)
    defer {
      dup2(input, 0)
      _ = [master, slave, own.master, own.slave, input].map { close($0) }
    }
    var modes = termios()
    tcgetattr(slave, &modes)
    modes.c_lflag &= ~UInt32(ECHO)
    tcsetattr(slave, TCSANOW, &modes)
    var size = winsize(ws_row: 31, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0)
    #expect(ioctl(slave, UInt(TIOCSWINSZ), &size) == 0)
    let writer = open("/proc/self/fd/\(slave)", O_WRONLY | O_NONBLOCK | O_NOCTTY)
    defer { close(writer) }

    let trip = try expectSame([slave, writer], shellJob: true)
    let info = try #require(trip.dump.terminals.first)
    #expect(trip.dump.terminals.count == 1)
    #expect(info.type == .pty && info.winsize?.wsRow == 31 && info.winsize?.wsCol == 99)
    #expect(info.pty?.index == UInt32(try dumped(slave).linkText.dropFirst("/dev/pts/".count)))
    let recorded = try #require(info.termios)
    #expect(recorded.cLflag == modes.c_lflag && recorded.cIflag == modes.c_iflag)
    #expect(recorded.cCc == (0..<19).map { i in withUnsafeBytes(of: modes.c_cc) { UInt32($0[i]) } })

    let again = try trip.descriptors()[0]
    #expect(try fstat(at: again).st_rdev == fstat(at: own.slave).st_rdev)
    // It is not this process's controlling terminal: its modes are not for it to set.
    try Terminal.finish(trip.restore)
    tcgetattr(again, &modes)
    #expect(modes.c_lflag & UInt32(ECHO) != 0)
  }
}
