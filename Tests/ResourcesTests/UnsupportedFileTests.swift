import CLinux
import Glibc
import Linux
import Testing

@testable import Resources

extension Kinds {
  private func feature(_ fd: Int32) throws -> String {
    try #require(fd >= 0)
    defer { close(fd) }
    let file = try dumped(fd)
    #expect(!fileKinds.contains { $0.matches(file) })
    return UnsupportedFile.feature(file)
  }

  private func open(socket domain: Int32, _ type: __socket_type, _ number: Int32 = 0) -> Int32 {
    socket(domain, Int32(type.rawValue), number)
  }

  @Test func socketsAreNamed() throws {
    #expect(try feature(open(socket: AF_UNIX, SOCK_SEQPACKET)) == "a unix seqpacket socket (unix)")
    let listening = open(socket: AF_INET, SOCK_STREAM)
    listen(listening, 1)
    #expect(try feature(listening) == "a listening TCP socket (inet)")
    #expect(try feature(open(socket: AF_INET6, SOCK_DGRAM)) == "a UDP socket over IPv6 (inet)")
    #expect(try feature(open(socket: AF_NETLINK, SOCK_RAW, 0)) == "a netlink socket of protocol 0 (netlink)")
    let packet = open(socket: 17, SOCK_RAW)
    if packet >= 0 { #expect(try feature(packet) == "a packet socket (packet)") }
  }

  @Test func otherFilesAreNamed() throws {
    #expect(try feature(inotify_init()) == "an inotify instance (inotify)")
    #expect(
      try feature(Int32(cl_syscall(Int(__NR_pidfd_open), Int(getpid()), 0, 0, 0, 0, 0))) == "a pidfd (pidfd)")
    #expect(try feature(Glibc.open("/proc/self/ns/mnt", O_RDONLY)) == "a namespace of the kind mnt (ns)")
    #expect(
      try feature(Glibc.open("/dev/kmsg", O_RDONLY))
        == "the kernel log /dev/kmsg (kmsg)")
    let user = Int32(cl_syscall(Int(__NR_userfaultfd), 0, 0, 0, 0, 0, 0))
    if user >= 0 { #expect(try feature(user) == "a userfaultfd (userfaultfd)") }
  }
}
