import CLinux
import Glibc
import Linux
import SystemPackage

/// The program that a restored task is before it is itself: an ELF file of one page that maps the executor area and
/// parks in it. Its address space holds nothing else, so that forking it is cheap.
public enum Stub {
  /// Starts the stub that becomes the root of the tree, with every signal blocked. It inherits `areaMemory` and every
  /// descriptor of this process without close-on-exec.
  ///
  /// - `address`: a page that is free in the layout of every task, for the stub's own code until the area is mapped.
  /// - Returns: its PID in this process's namespace. Errors are clone3's (man 2 clone3): EEXIST if a PID is taken,
  ///   EPERM if naming it is not allowed.
  public static func spawn(
    in slot: Slot, of area: ExecutorArea, areaMemory: Int32, address: UInt64, arguments: cl_clone_args
  ) throws(Errno) -> Int32 {
    let image = elf(
      at: address, area: area.address, size: UInt64(area.size), memory: areaMemory, slot: slot.address)
    let file = try memfdCreate("swift-restore-stub")
    let written = image.withUnsafeBytes {
      cl_syscall(
        Int(__NR_write), Int(file.rawValue), Int(bitPattern: $0.baseAddress), $0.count, 0, 0, 0)
    }
    guard written == image.count else { throw .ioError }
    area.expectStart()
    let pid = withUnsafePointer(to: arguments) { cl_spawn($0, file.rawValue) }
    if pid < 0 {
      area.withdrawStart()
      throw Errno(rawValue: Int32(-pid))
    }
    return Int32(pid)
  }

  /// One loadable segment, at a fixed address (man 5 elf).
  static func elf(at address: UInt64, area: UInt64, size: UInt64, memory: Int32, slot: UInt64) -> [UInt8] {
    var file: [UInt8] = []
    func put<T: FixedWidthInteger>(_ value: T) {
      withUnsafeBytes(of: value.littleEndian) { file.append(contentsOf: $0) }
    }
    let headers: UInt64 = 64 + 2 * 56
    file += [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    put(UInt16(2))  // ET_EXEC
    put(UInt16(62))  // EM_X86_64
    put(UInt32(1))
    put(address + headers)  // entry
    put(UInt64(64))  // program headers
    put(UInt64(0))
    put(UInt32(0))
    put(UInt16(64))
    put(UInt16(56))
    put(UInt16(2))
    put(UInt16(0))
    put(UInt16(0))
    put(UInt16(0))
    func segment(_ type: UInt32, _ flags: UInt32, _ at: UInt64, _ length: UInt64, _ align: UInt64) {
      put(type)
      put(flags)
      put(UInt64(0))
      put(at)
      put(at)
      put(length)
      put(length)
      put(align)
    }
    segment(1, 5, address, headers + 128, 4096)  // PT_LOAD, readable and executable
    segment(0x6474_e551, 6, 0, 0, 16)  // PT_GNU_STACK: not executable
    // mmap(area, size, PROT_READ|WRITE|EXEC, MAP_SHARED|MAP_FIXED_NOREPLACE, memory, 0)
    file += [0x48, 0xbf]
    put(area)
    file += [0x48, 0xbe]
    put(size)
    file += [0xba, 7, 0, 0, 0, 0x41, 0xba, 0x01, 0x00, 0x10, 0x00, 0x41, 0xb8]
    put(memory)
    file += [0x45, 0x31, 0xc9, 0xb8, 9, 0, 0, 0, 0x0f, 0x05]
    // mov $slot, %rsp; mov $area, %rax; jmp *%rax
    file += [0x48, 0xbc]
    put(slot)
    file += [0x48, 0xb8]
    put(area)
    file += [0xff, 0xe0]
    while file.count < Int(headers) + 128 { file.append(0xcc) }
    return file
  }
}
