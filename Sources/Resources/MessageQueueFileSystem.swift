import CLinux
import Glibc
import Linux
import SystemPackage

/// The file system in which an IPC namespace shows its POSIX message queues (man 7 mq_overview).
enum MessageQueueFileSystem {
  /// The queues of the namespace that the tracer is in.
  static func names() throws(Failure) -> [String] {
    try about("listing POSIX message queues") { () throws(Errno) in
      let mount = try FileSystem.mount("mqueue")
      return try entries(of: mount.rawValue)
    }
  }

  private static func entries(of mount: Int32) throws(Errno) -> [String] {
    let directory = try Descriptor.open(at: mount, ".", O_RDONLY | O_DIRECTORY)
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 16384, alignment: 16)
    defer { buffer.deallocate() }
    var names: [String] = []
    while true {
      let n = try syscall(__NR_getdents64, Int(directory.rawValue), Int(bitPattern: buffer.baseAddress), buffer.count)
      if n == 0 { return names }
      var offset = 0
      while offset < n {
        // struct linux_dirent64: u64 ino, s64 off, u16 reclen, u8 type, char name[]
        let length = Int(buffer.loadUnaligned(fromByteOffset: offset + 16, as: UInt16.self))
        let name = Array(buffer[(offset + 19)..<(offset + length)].prefix { $0 != 0 }).text
        if name != "." && name != ".." { names.append(name) }
        offset += length
      }
    }
  }
}
