import CLinux
import Glibc
import SystemPackage

/// A growing buffer that is used again for one /proc file after the other.
public final class ReadBuffer {
  public private(set) var storage = UnsafeMutableRawBufferPointer.allocate(byteCount: 16384, alignment: 16)

  public init() {}
  deinit { storage.deallocate() }

  /// Reads a descriptor to its end. The bytes are valid until the next read.
  public func readAll(_ fd: Int32) throws(Errno) -> UnsafeRawBufferPointer {
    var count = 0
    while true {
      if count == storage.count { grow() }
      let n = try syscall(
        __NR_read, Int(fd), Int(bitPattern: storage.baseAddress) + count, storage.count - count)
      if n == 0 { break }
      count += n
    }
    return UnsafeRawBufferPointer(rebasing: storage[..<count])
  }

  private func grow() {
    let larger = UnsafeMutableRawBufferPointer.allocate(byteCount: storage.count * 2, alignment: 16)
    larger.copyMemory(from: UnsafeRawBufferPointer(storage))
    storage.deallocate()
    storage = larger
  }
}

/// `/proc/PID`, or `/proc/PID/task/TID`, held open: names below it resolve without a walk from the root, and
/// never reach another task that was given the same PID later (ESRCH instead).
public struct ProcDirectory: ~Copyable {
  public let descriptor: Descriptor

  public init(pid: Int32) throws(Errno) {
    descriptor = try Descriptor.open("/proc/\(pid)", O_PATH | O_DIRECTORY)
  }

  public var rawValue: Int32 { descriptor.rawValue }

  /// The content of a file, valid until the buffer's next use.
  public borrowing func read(_ name: String, _ buffer: ReadBuffer) throws(Errno)
    -> UnsafeRawBufferPointer
  {
    let file = try Descriptor.open(at: rawValue, name)
    return try buffer.readAll(file.rawValue)
  }

  public borrowing func open(_ name: String, _ flags: Int32 = O_RDONLY) throws(Errno) -> Descriptor {
    try Descriptor.open(at: rawValue, name, flags)
  }

  public borrowing func link(_ name: String) throws(Errno) -> [UInt8] {
    try readlink(at: rawValue, name)
  }

  /// The entries of a directory whose names are numbers (`task`, `fd`), in the kernel's order.
  public borrowing func numbers(in name: String, _ buffer: ReadBuffer) throws(Errno) -> [Int32] {
    let directory = try Descriptor.open(at: rawValue, name, O_RDONLY | O_DIRECTORY)
    var numbers: [Int32] = []
    while true {
      let n = try syscall(
        __NR_getdents64, Int(directory.rawValue), Int(bitPattern: buffer.storage.baseAddress),
        buffer.storage.count)
      if n == 0 { return numbers }
      var offset = 0
      while offset < n {
        // struct linux_dirent64: u64 ino, s64 off, u16 reclen, u8 type, char name[]
        let length = Int(buffer.storage.loadUnaligned(fromByteOffset: offset + 16, as: UInt16.self))
        var cursor = ByteCursor(
          UnsafeRawBufferPointer(rebasing: buffer.storage[(offset + 19)..<(offset + length)]))
        if let c = cursor.peek, c >= 0x30, c <= 0x39 {
          numbers.append(Int32(truncatingIfNeeded: cursor.decimal()))
        }
        offset += length
      }
    }
  }
}
