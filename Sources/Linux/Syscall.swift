import CLinux
import Glibc
import SystemPackage

/// A raw system call: the kernel's result, or its errno (man 2 syscall).
@inlinable
@discardableResult
public func syscall(
  _ number: Int32, _ a: Int = 0, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0, _ e: Int = 0, _ f: Int = 0
) throws(Errno) -> Int {
  let result = cl_syscall(Int(number), a, b, c, d, e, f)
  if result < 0 && result >= -4095 { throw Errno(rawValue: Int32(-result)) }
  return result
}

/// A system call whose argument `c` is a path.
@inlinable
@discardableResult
public func syscall(
  _ number: Int32, _ a: Int, path: String, _ c: Int = 0, _ d: Int = 0, _ e: Int = 0
) throws(Errno) -> Int {
  let result = path.withCString { cl_syscall(Int(number), a, Int(bitPattern: $0), c, d, e, 0) }
  if result < 0 && result >= -4095 { throw Errno(rawValue: Int32(-result)) }
  return result
}

/// A system call whose first argument is a path.
@inlinable
@discardableResult
public func syscall(
  _ number: Int32, path: String, _ b: Int = 0, _ c: Int = 0, _ d: Int = 0, _ e: Int = 0
) throws(Errno) -> Int {
  let result = path.withCString { cl_syscall(Int(number), Int(bitPattern: $0), b, c, d, e, 0) }
  if result < 0 && result >= -4095 { throw Errno(rawValue: Int32(-result)) }
  return result
}

/// The number of bytes in a page.
public let pageSize = 4096

@inlinable public func pageAlignUp(_ n: UInt64) -> UInt64 { (n + 4095) & ~4095 }

/// A descriptor of this process that closes when its owner lets go of it.
public struct Descriptor: ~Copyable, Sendable {
  public let rawValue: Int32

  public init(_ rawValue: Int32) { self.rawValue = rawValue }

  deinit { _ = cl_syscall(Int(__NR_close), Int(rawValue), 0, 0, 0, 0, 0) }

  /// The bare number, for which the caller is responsible from now on.
  public consuming func release() -> Int32 {
    let fd = rawValue
    discard self
    return fd
  }

  /// Opens a path below a directory (man 2 openat). `O_CLOEXEC` is added.
  public static func open(
    at directory: Int32 = AT_FDCWD, _ path: String, _ flags: Int32 = O_RDONLY, mode: UInt32 = 0
  ) throws(Errno) -> Descriptor {
    Descriptor(
      Int32(try syscall(__NR_openat, Int(directory), path: path, Int(flags | O_CLOEXEC), Int(mode))))
  }
}

/// An anonymous file in memory, close-on-exec (man 2 memfd_create).
public func memfdCreate(_ name: String, flags: Int = 0) throws(Errno) -> Descriptor {
  let result = name.withCString { cl_syscall(Int(__NR_memfd_create), Int(bitPattern: $0), 1 | flags, 0, 0, 0, 0) }
  if result < 0 { throw Errno(rawValue: Int32(-result)) }
  return Descriptor(Int32(result))
}

/// A pidfd (man 2 pidfd_open); of any thread where wanted (PIDFD_THREAD, Linux 6.9).
public func pidfdOpen(_ pid: Int32, ofThread: Bool = false) throws(Errno) -> Descriptor {
  Descriptor(Int32(try syscall(__NR_pidfd_open, Int(pid), ofThread ? Int(O_EXCL) : 0)))
}

/// A duplicate of a task's descriptor (man 2 pidfd_getfd); close-on-exec here.
public func pidfdGetfd(_ pidfd: Int32, _ fd: Int32) throws(Errno) -> Descriptor {
  Descriptor(Int32(try syscall(__NR_pidfd_getfd, Int(pidfd), Int(fd), 0)))
}

/// What `kcmp` can compare (man 2 kcmp).
public enum KernelObject: Int32, Sendable {
  case file = 0
  case vm = 1
  case files = 2
  case fs = 3
  case sighand = 4
  /// A file, and the target of an epoll item.
  case epollTarget = 7
}

/// Orders two kernel objects: 0 equal, negative or positive otherwise (man 2 kcmp).
public func kcmp(
  _ pid1: Int32, _ pid2: Int32, _ kind: KernelObject, _ a: Int = 0, _ b: Int = 0
) throws(Errno) -> Int {
  let order = try syscall(__NR_kcmp, Int(pid1), Int(pid2), Int(kind.rawValue), a, b)
  switch order {
  case 0: return 0
  case 1: return -1
  default: return 1
  }
}

/// Nanoseconds of a clock (man 2 clock_gettime).
public func nanoseconds(_ clock: clockid_t = CLOCK_MONOTONIC) -> UInt64 {
  var t = timespec()
  clock_gettime(clock, &t)
  return UInt64(t.tv_sec) * 1_000_000_000 + UInt64(t.tv_nsec)
}

/// The target of a symbolic link, as bytes: paths need not be UTF-8 (man 2 readlinkat).
public func readlink(at directory: Int32 = AT_FDCWD, _ path: String) throws(Errno) -> [UInt8] {
  var failure: Errno?
  // The kernel's own magic links can be longer than PATH_MAX by " (deleted)".
  let bytes = withUnsafeTemporaryAllocation(byteCount: 4200, alignment: 1) { buffer in
    let n = path.withCString {
      cl_syscall(
        Int(__NR_readlinkat), Int(directory), Int(bitPattern: $0), Int(bitPattern: buffer.baseAddress), buffer.count, 0, 0)
    }
    if n < 0 { failure = Errno(rawValue: Int32(-n)) }
    return [UInt8](buffer[..<max(n, 0)])
  }
  if let failure { throw failure }
  return bytes
}

/// A path's metadata; an empty path means the descriptor itself (man 2 fstatat).
public func fstat(at directory: Int32, _ path: String = "", followLinks: Bool = true) throws(Errno)
  -> stat
{
  var st = stat()
  let flags = (path.isEmpty ? AT_EMPTY_PATH : 0) | (followLinks ? 0 : AT_SYMLINK_NOFOLLOW)
  let result = withUnsafeMutablePointer(to: &st) { st in
    path.withCString {
      cl_syscall(
        Int(__NR_newfstatat), Int(directory), Int(bitPattern: $0), Int(bitPattern: st), Int(flags), 0, 0)
    }
  }
  if result < 0 { throw Errno(rawValue: Int32(-result)) }
  return st
}

/// The metadata of what a path names, a link too, in the kernel's bytes: names need not be UTF-8.
public func fstat(of path: [UInt8]) throws(Errno) -> stat {
  var st = stat()
  let result = withUnsafeMutablePointer(to: &st) { st in
    (path + [0]).withUnsafeBytes {
      cl_syscall(
        Int(__NR_newfstatat), Int(AT_FDCWD), Int(bitPattern: $0.baseAddress), Int(bitPattern: st), Int(AT_SYMLINK_NOFOLLOW), 0, 0)
    }
  }
  if result < 0 { throw Errno(rawValue: Int32(-result)) }
  return st
}

/// What names a file in its file system for good, the generation of its inode included (man 2 name_to_handle_at).
public func fileHandle(_ path: String) throws(Errno) -> [UInt8] {
  let size = 128
  // struct file_handle: the number of bytes, a type, and the bytes.
  var handle = withUnsafeBytes(of: (UInt32(size), Int32(0))) { Array($0) } + [UInt8](repeating: 0, count: size)
  var mount: Int32 = 0
  let result = handle.withUnsafeMutableBytes { handle in
    path.withCString { path in
      withUnsafeMutablePointer(to: &mount) {
        cl_syscall(
          Int(__NR_name_to_handle_at), Int(AT_FDCWD), Int(bitPattern: path), Int(bitPattern: handle.baseAddress),
          Int(bitPattern: $0), 0x400 /* AT_SYMLINK_FOLLOW */, 0)
      }
    }
  }
  if result < 0 { throw Errno(rawValue: Int32(-result)) }
  return handle
}

extension [UInt8] {
  /// The bytes as text for messages; what is not UTF-8 is replaced.
  public var text: String { String(decoding: self, as: UTF8.self) }
}

/// The next range of a file that holds data, at or after `offset`; `nil` if only a hole is left
/// (man 2 lseek, SEEK_DATA and SEEK_HOLE).
public func nextData(_ fd: Int32, from offset: Int) throws(Errno) -> Range<Int>? {
  let start = cl_syscall(Int(__NR_lseek), Int(fd), offset, 3, 0, 0, 0)
  if start == -Int(ENXIO) { return nil }
  if start < 0 { throw Errno(rawValue: Int32(-start)) }
  return start..<(try syscall(__NR_lseek, Int(fd), start, 4))
}

/// Reads a value from another task's memory (man 2 process_vm_readv).
public func readMemory<T: BitwiseCopyable>(of pid: Int32, at address: UInt64, into value: inout T) throws(Errno) {
  let size = UInt64(MemoryLayout<T>.size)
  var remote = (address, size)
  try withUnsafeMutablePointer(to: &value) { value throws(Errno) in
    var local = (UInt64(UInt(bitPattern: value)), size)
    try withUnsafeMutablePointer(to: &local) { local throws(Errno) in
      try withUnsafeMutablePointer(to: &remote) { remote throws(Errno) in
        _ = try syscall(__NR_process_vm_readv, Int(pid), Int(bitPattern: local), 1, Int(bitPattern: remote), 1, 0)
      }
    }
  }
}
