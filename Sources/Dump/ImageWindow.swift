import CLinux
import Glibc
import Linux
import Resources
import SystemPackage

/// Reads ranges of a task's memory, at most 1024, one behind the other; whether all of it came.
private func readMemory(of pid: Int32, _ ranges: [Range<UInt64>], into room: UnsafeMutableRawBufferPointer) -> Bool {
  var local = (UInt64(UInt(bitPattern: room.baseAddress)), UInt64(room.count))
  let remote = ranges.map { ($0.lowerBound, $0.upperBound - $0.lowerBound) }
  let n = withUnsafeMutablePointer(to: &local) { local in
    remote.withUnsafeBytes {
      cl_syscall(
        Int(__NR_process_vm_readv), Int(pid), Int(bitPattern: local), 1, Int(bitPattern: $0.baseAddress), remote.count, 0)
    }
  }
  return n == room.count
}

/// A part of an image, mapped: two may write into one file at the same time only if one of them does it so, because a write holds
/// the file's lock (man 2 process_vm_readv into memory that is the file's).
enum ImageWindow {
  /// On a tmpfs only: elsewhere every page that is touched costs the file system a transaction.
  static func isWorthwhile(_ file: Int32) -> Bool {
    fileSystem(of: file)?.type == 0x0102_1994  // TMPFS_MAGIC
  }

  /// Gives the image its length, which a mapping cannot; not while another writes, who would have to end first.
  static func prepare(_ file: Int32, length: UInt64) -> Bool {
    isWorthwhile(file) && ftruncate(file, Int(length)) == 0
  }

  /// Copies ranges of a task's memory that lie one behind the other in the image. `false`: it could not.
  static func copy(_ parts: [Pages.Placed], of pid: Int32, to file: Int32) -> Bool {
    guard let first = parts.first, let last = parts.last else { return true }
    let end = last.offset + UInt64(last.range.count)
    let length = Int(end - first.offset)
    let mapped = mmap(nil, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE_PAGES, file, Int(first.offset))
    guard let mapped, mapped != MAP_FAILED else { return false }
    defer { munmap(mapped, length) }
    return readMemory(of: pid, parts.map(\.range), into: UnsafeMutableRawBufferPointer(start: mapped, count: length))
  }

  private static let MAP_POPULATE_PAGES: Int32 = 0x8000  // MAP_POPULATE
}
