import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// Files of hugetlbfs, behind shared huge pages and memfds of them (man 2 mmap, MAP_HUGETLB). They can be read and mapped, but neither
/// written nor spliced, and do not tell their holes.
enum HugePages {
  /// Bytes of a page of the file; `nil` if it is no such file.
  static func size(of fd: Int32) -> Int? {
    guard let system = fileSystem(of: fd), system.type == 0x9584_58f6 else { return nil }
    return system.blockSize
  }

  /// The flags of mmap and memfd_create that ask for pages of a size: its logarithm at bit 26.
  static func sizeFlags(_ size: Int) -> UInt32 { UInt32(size.trailingZeroBitCount) << 26 }

  /// Writes the pages that hold anything to `out`. A page without content reads as zeroes and is not made by that.
  static func copy(_ memory: Int32, size: Int, page: Int, to out: Int32) throws(Errno) -> [PagemapEntry] {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: page, alignment: 4096)
    defer { buffer.deallocate() }
    var map: [PagemapEntry] = []
    for offset in stride(from: 0, to: size, by: page) {
      var filled = 0
      while filled < page {
        let n = try syscall(
          __NR_pread64, Int(memory), Int(bitPattern: buffer.baseAddress) + filled, page - filled, offset + filled)
        if n == 0 { break }
        filled += n
      }
      if filled < page || buffer.bindMemory(to: UInt64.self).allSatisfy({ $0 == 0 }) { continue }
      var written = 0
      while written < page {
        written += try syscall(__NR_write, Int(out), Int(bitPattern: buffer.baseAddress) + written, page - written)
      }
      map.append(PagemapEntry(address: UInt64(offset), pages: UInt64(page / pageSize)))
    }
    return map
  }

  /// Reads bytes of `pages`, from where it stands, into the file at `offset`, through a mapping of it.
  static func fill(_ memory: Int32, at offset: Int, count: Int, from pages: Int32, page: Int) throws(Errno) {
    let start = offset / page * page
    let length = (offset + count + page - 1) / page * page - start
    let address = try syscall(
      __NR_mmap, 0, length, Int(PROT_READ | PROT_WRITE), Int(MAP_SHARED), Int(memory), start)
    defer { _ = cl_syscall(Int(__NR_munmap), address, length, 0, 0, 0, 0) }
    var done = 0
    while done < count {
      let n = try syscall(__NR_read, Int(pages), address + offset - start + done, count - done)
      if n == 0 { throw .ioError }
      done += n
    }
  }
}
