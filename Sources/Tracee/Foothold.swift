import CLinux
import Glibc
import Linux
import SystemPackage

/// Where a thread makes the calls that map and unmap the executors' area, so that it finds home from every instruction of them
/// if the tracer dies.
///
/// Such a call cannot be made in the area, which is not there yet or goes. The vDSO's last page has room behind its end, which is
/// nobody's and can be executed. Through /proc/PID/mem it can be written too: the process gets a copy of that page of its own
/// (FOLL_FORCE on a private mapping). Not a byte of the program's or the vDSO's code changes.
struct Foothold {
  /// Makes the call that is in the registers. Who is not stopped behind it unmaps what it returned, and goes home.
  let call: UInt64
  /// Unmaps: %rdi and %rsi are address and size. Who is not stopped behind it goes home.
  let unmap: UInt64

  /// The room behind the vDSO's end, as offsets from its start, in this kernel's vDSO.
  private static let room: Range<UInt64> = {
    guard let image = VDSO.image else { return 0..<0 }
    var start = image.count
    while start > image.count - pageSize, start > 0, image[start - 1] == 0 { start -= 1 }
    return UInt64((start + 31) & ~15)..<UInt64(image.count)
  }()

  /// Writes the code into a stopped process. `nil`: the kernel does not let it (proc_mem.force_override), or there is no room.
  static func make(in pid: Int32, vdso: UInt64, registers: Registers, signalMask: UInt64) -> Foothold? {
    let start = vdso + room.lowerBound
    var code: [UInt8] = []
    withUnsafeBytes(of: signalMask) { code.append(contentsOf: $0) }
    code += [0x0f, 0x05]  // syscall
    code += [0x48, 0x89, 0xc7]  // mov %rax, %rdi
    code += [0xb8, 11, 0, 0, 0, 0x0f, 0x05]  // mov $__NR_munmap, %eax; syscall
    code += registers.homeCode(at: start + UInt64(code.count), maskAddress: start)
    guard code.count <= room.count, let memory = try? Descriptor.open("/proc/\(pid)/mem", O_RDWR) else { return nil }
    let written = code.withUnsafeBytes {
      cl_syscall(
        Int(__NR_pwrite64), Int(memory.rawValue), Int(bitPattern: $0.baseAddress), $0.count, Int(start), 0, 0)
    }
    return written == code.count ? Foothold(call: start + 8, unmap: start + 13) : nil
  }
}
