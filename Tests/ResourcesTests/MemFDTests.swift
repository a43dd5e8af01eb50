import CLinux
import Glibc
import Linux
import Testing

@testable import Resources

extension Kinds {
  private func makeMemfd(_ name: String, _ flags: Int) throws -> Int32 {
    try descriptor(
      name.withCString { cl_syscall(Int(__NR_memfd_create), Int(bitPattern: $0), flags, 0, 0, 0, 0) })
  }

  private func seals(_ fd: Int32) -> Int32 { fcntl(fd, Int32(F_GET_SEALS)) }

  @Test func memfdKeepsContentAndOwners() throws {
    let fd = try makeMemfd("a name: é", 2)
    defer { close(fd) }
    let page = [UInt8](repeating: 0x5a, count: 4096)
    pwrite(fd, page, 4096, 3 << 20)
    pwrite(fd, "tail", 4, 5 << 20)
    ftruncate(fd, 6_000_001)
    fchmod(fd, 0o640)
    fchown(fd, 1, 2)
    lseek(fd, 77, SEEK_SET)
    let other = open("/proc/self/fd/\(fd)", O_RDONLY | O_APPEND)
    defer { close(other) }
    let trip = try expectSame([fd, other])
    #expect(trip.dump.memfds.count == 1)
    let again = try trip.descriptors()
    #expect(try readlink("/proc/self/fd/\(again[0])").text == "/memfd:a name: é (deleted)")
    let (was, now) = (try fstat(at: fd), try fstat(at: again[0]))
    #expect(now.st_size == was.st_size && now.st_mode == was.st_mode && now.st_blocks == was.st_blocks)
    #expect(now.st_uid == 1 && now.st_gid == 2)
    #expect(try fstat(at: again[1]).st_ino == now.st_ino && now.st_ino != was.st_ino)
    var bytes = page
    pread(again[1], &bytes, 4096, 3 << 20)
    #expect(bytes == page)
    pread(again[1], &bytes, 4, 5 << 20)
    #expect(bytes.prefix(4).elementsEqual("tail".utf8))
    #expect(seals(again[0]) == 0)
  }

  /// F_SEAL_SEAL 1, SHRINK 2, GROW 4, WRITE 8, FUTURE_WRITE 16
  @Test(arguments: [0, 1, 2, 6, 8, 15, 16, 22, 23, 31] as [Int32]) func memfdKeepsItsSeals(_ wanted: Int32)
    throws
  {
    let fd = try makeMemfd("sealed", 2)
    defer { close(fd) }
    write(fd, "content", 7)
    try #require(fcntl(fd, Int32(F_ADD_SEALS), wanted) == 0)
    let trip = try expectSame([fd])
    let again = try trip.descriptors()[0]
    if wanted & 24 == 16 {
      // What was mapped before the seal must be mapped before it again.
      let mapping = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0)
      #expect(mapping != MAP_FAILED)
      munmap(mapping, 4096)
    }
    try MemFD.finish(trip.restore)
    #expect(seals(again) == wanted)
    #expect(try fstat(at: again).st_size == 7)
  }

  @Test func memfdThatMayNotBeSealedStaysSo() throws {
    let fd = try makeMemfd("unsealed", 0)
    defer { close(fd) }
    let again = try expectSame([fd]).descriptors()[0]
    #expect(seals(again) == 1)
  }

  @Test func memfdOfHugePagesIsNoObstacle() throws {
    let fd = try makeMemfd("huge", 4)
    defer { close(fd) }
    let file = try dumped(fd)
    #expect(MemFD.objection(file, DumpOptions()) == nil)
  }
}
