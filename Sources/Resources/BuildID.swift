import CLinux
import Glibc
import Linux
import SystemPackage

/// The build-id note of an ELF file (man 5 elf, NT_GNU_BUILD_ID), by which a program or library is known to be the same.
enum BuildID {
  /// Four bytes a word, as the image has it; empty if the file has none.
  static func read(_ file: DumpedFile) -> [UInt32] {
    let executable = file.number < 0 || file.stat.st_mode & 0o111 != 0
    guard executable, file.stat.st_size >= 64 else { return [] }
    guard let opened = try? Descriptor.open("/proc/\(file.pid)/\(file.procPath)", O_RDONLY | O_NONBLOCK) else { return [] }
    return read(opened)
  }

  static func read(_ path: RecordedPath) -> [UInt32] {
    // No file, no right to read it, no note: in each case there is nothing to compare.
    guard let file = try? path.open(O_RDONLY | O_NONBLOCK) else { return [] }
    return read(file)
  }

  private static func read(_ file: borrowing Descriptor) -> [UInt32] {
    var bytes = [UInt8](repeating: 0, count: 4096)
    let n = bytes.withUnsafeMutableBytes {
      cl_syscall(Int(__NR_pread64), Int(file.rawValue), Int(bitPattern: $0.baseAddress), $0.count, 0, 0, 0)
    }
    guard n >= 64 else { return [] }
    return bytes.withUnsafeBytes { note(in: UnsafeRawBufferPointer(rebasing: $0[..<n])) }
  }

  private static func note(in file: UnsafeRawBufferPointer) -> [UInt32] {
    guard file.starts(with: [0x7f, 0x45, 0x4c, 0x46, 2, 1]) else { return [] }
    let header = file.loadUnaligned(as: Elf64_Ehdr.self)
    for i in 0..<Int(header.e_phnum) {
      let at = Int(truncatingIfNeeded: header.e_phoff) &+ i &* Int(header.e_phentsize)
      guard at >= 0, at + 56 <= file.count else { return [] }
      let segment = file.loadUnaligned(fromByteOffset: at, as: Elf64_Phdr.self)
      guard segment.p_type == 4 else { continue }  // PT_NOTE
      var offset = Int(truncatingIfNeeded: segment.p_offset)
      guard offset >= 0, segment.p_filesz <= 4096 else { continue }
      let end = min(offset &+ Int(segment.p_filesz), file.count)
      while offset + 12 <= end {
        let nameSize = Int(file.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
        let size = Int(file.loadUnaligned(fromByteOffset: offset + 4, as: UInt32.self))
        let type = file.loadUnaligned(fromByteOffset: offset + 8, as: UInt32.self)
        let description = offset + 12 + (nameSize + 3) & ~3
        if type == 3, size <= 64, description + size <= end {
          return stride(from: 0, to: size & ~3, by: 4).map {
            file.loadUnaligned(fromByteOffset: description + $0, as: UInt32.self)
          }
        }
        offset = description + (size + 3) & ~3
      }
    }
    return []
  }
}
