import CLinux
import Glibc

/// The vDSO's own `syscall` instructions, through which a task makes a call without a byte of its text being written.
public enum VDSO {
  /// The offset of a `syscall` instruction from the vDSO's start: the same in every 64-bit task of this kernel.
  public static let syscallOffset: UInt64? = {
    guard let base = UnsafeRawPointer(bitPattern: getauxval(33)) else { return nil }  // AT_SYSINFO_EHDR
    // The vDSO is an ELF file of one or two pages; its sections end with the header table.
    let header = base.loadUnaligned(as: Elf64_Ehdr.self)
    let size = Int(header.e_shoff) + Int(header.e_shnum) * Int(header.e_shentsize)
    for offset in 0..<(size - 1) {
      if base.loadUnaligned(fromByteOffset: offset, as: UInt16.self) == 0x050f { return UInt64(offset) }
    }
    return nil
  }()

  /// This process's copy without the free end of its last page, where a dump may have left something in a task's (``Foothold``).
  public static var file: UnsafeRawBufferPointer? {
    guard let image else { return nil }
    let header = image.loadUnaligned(as: Elf64_Ehdr.self)
    let size = Int(header.e_shoff) + Int(header.e_shnum) * Int(header.e_shentsize)
    return UnsafeRawBufferPointer(rebasing: image[..<size])
  }

  /// This process's copy: base address and size in bytes.
  public static var image: UnsafeRawBufferPointer? {
    guard let base = UnsafeRawPointer(bitPattern: getauxval(33)) else { return nil }
    let header = base.loadUnaligned(as: Elf64_Ehdr.self)
    let size = Int(header.e_shoff) + Int(header.e_shnum) * Int(header.e_shentsize)
    return UnsafeRawBufferPointer(start: base, count: (size + 4095) & ~4095)
  }
}
