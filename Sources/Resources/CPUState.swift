import CLinux
import Checkpoint
import Linux
import SystemPackage
import Tracee

/// A thread's registers: the general ones, FS and GS base, and the whole XSAVE state. Read and set with ptrace.
public enum CPUState {
  /// XSAVE components (Intel SDM volume 1, chapter 13).
  private enum Component: UInt32 {
    case ymm = 2, boundRegisters = 3, boundConfiguration = 4, opmask = 5, zmmUpper = 6, hi16ZMM = 7, pkru = 9

    /// Where it lies in the standard format, from the start of the area; `nil` if this CPU does not have it.
    var range: Range<Int>? { Self.ranges[Int(rawValue)] }

    /// Asked once: CPUID is slow in a virtual machine.
    private static let ranges: [Range<Int>?] = (0...pkru.rawValue).map { number in
      guard number >= ymm.rawValue else { return nil }
      let word = cl_xsave_component(number)
      let offset = Int(word >> 32)
      let size = Int(word & 0xffff_ffff)
      return size == 0 ? nil : offset..<(offset + size)
    }
  }

  /// x87, SSE and the components above
  private static let expressible: UInt64 = 0b10_1111_1111
  private static let headerOffset = 512

  public static func record(_ tid: Int32, _ registers: Registers) throws(Failure) -> ThreadInfoX86 {
    let state = try about("task \(tid): reading its extended registers") { () throws(Errno) in
      try Ptrace.extendedState(tid)
    }
    var info = ThreadInfoX86()
    // CRIU makes no interrupted call again that is recorded as one: the program would see the kernel's own error codes.
    info.gpregs = record(registers.restartingCall(restartBlockIsValid: false))
    guard state.count >= 576 else {
      throw Failure("task \(tid): this CPU has no XSAVE, which is needed")
    }
    let present = state.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: headerOffset, as: UInt64.self) }
    guard present & ~expressible == 0 else {
      throw Failure(
        "task \(tid): XSAVE components 0x\(String(present & ~expressible, radix: 16)) (such as AMX tiles) are not supported"
      )
    }
    info.fpregs = state.withUnsafeBytes { record($0, present) }
    return info
  }

  private static func record(_ registers: Registers) -> UserX86RegsEntry {
    let r = registers.user
    var e = UserX86RegsEntry()
    (e.r15, e.r14, e.r13, e.r12) = (UInt64(r.r15), UInt64(r.r14), UInt64(r.r13), UInt64(r.r12))
    (e.r11, e.r10, e.r9, e.r8) = (UInt64(r.r11), UInt64(r.r10), UInt64(r.r9), UInt64(r.r8))
    (e.bp, e.bx, e.ax, e.cx) = (UInt64(r.rbp), UInt64(r.rbx), UInt64(r.rax), UInt64(r.rcx))
    (e.dx, e.si, e.di, e.origAx) = (UInt64(r.rdx), UInt64(r.rsi), UInt64(r.rdi), UInt64(r.orig_rax))
    (e.ip, e.cs, e.flags, e.sp, e.ss) = (
      UInt64(r.rip), UInt64(r.cs), UInt64(r.eflags), UInt64(r.rsp), UInt64(r.ss)
    )
    (e.fsBase, e.gsBase) = (UInt64(r.fs_base), UInt64(r.gs_base))
    (e.ds, e.es, e.fs, e.gs) = (UInt64(r.ds), UInt64(r.es), UInt64(r.fs), UInt64(r.gs))
    e.mode = .native
    return e
  }

  private static func record(_ bytes: UnsafeRawBufferPointer, _ present: UInt64) -> UserX86FpregsEntry {
    func words<T: FixedWidthInteger>(_ range: Range<Int>, _ type: T.Type) -> [T] {
      guard range.upperBound <= bytes.count else { return [] }
      return [T](unsafeUninitializedCapacity: range.count / MemoryLayout<T>.size) { words, count in
        count = words.count
        UnsafeMutableRawBufferPointer(words).copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[range]))
      }
    }
    func component<T: FixedWidthInteger>(_ component: Component, _ type: T.Type) -> [T] {
      component.range.map { words($0, type) } ?? []
    }
    var e = UserX86FpregsEntry()
    let head = words(0..<8, UInt16.self)
    (e.cwd, e.swd, e.twd, e.fop) = (UInt32(head[0]), UInt32(head[1]), UInt32(head[2]), UInt32(head[3]))
    e.rip = bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
    e.rdp = bytes.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
    e.mxcsr = bytes.loadUnaligned(fromByteOffset: 24, as: UInt32.self)
    e.mxcsrMask = bytes.loadUnaligned(fromByteOffset: 28, as: UInt32.self)
    e.stSpace = words(32..<160, UInt32.self)
    e.xmmSpace = words(160..<416, UInt32.self)
    var x = UserX86XsaveEntry()
    x.xstateBv = present
    x.ymmhSpace = component(.ymm, UInt32.self)
    x.bndregState = component(.boundRegisters, UInt64.self)
    x.bndcsrState = component(.boundConfiguration, UInt64.self)
    x.opmaskReg = component(.opmask, UInt64.self)
    x.zmmUpper = component(.zmmUpper, UInt64.self)
    x.hi16Zmm = component(.hi16ZMM, UInt64.self)
    x.pkru = component(.pkru, UInt32.self)
    e.xsave = x
    return e
  }

  /// The registers that a restored thread starts with. An interrupted call is made again: its restart block is gone.
  public static func registers(of info: ThreadInfoX86) -> Registers {
    let e = info.gpregs
    var registers = Registers()
    func set(_ r: inout user_regs_struct) {
      (r.r15, r.r14, r.r13, r.r12) = (.init(e.r15), .init(e.r14), .init(e.r13), .init(e.r12))
      (r.r11, r.r10, r.r9, r.r8) = (.init(e.r11), .init(e.r10), .init(e.r9), .init(e.r8))
      (r.rbp, r.rbx, r.rax, r.rcx) = (.init(e.bp), .init(e.bx), .init(e.ax), .init(e.cx))
      (r.rdx, r.rsi, r.rdi, r.orig_rax) = (.init(e.dx), .init(e.si), .init(e.di), .init(e.origAx))
      (r.rip, r.cs, r.eflags, r.rsp, r.ss) = (
        .init(e.ip), .init(e.cs), .init(e.flags), .init(e.sp), .init(e.ss)
      )
      (r.fs_base, r.gs_base) = (.init(e.fsBase), .init(e.gsBase))
      (r.ds, r.es, r.fs, r.gs) = (.init(e.ds), .init(e.es), .init(e.fs), .init(e.gs))
    }
    set(&registers.user)
    return registers.restartingCall(restartBlockIsValid: false)
  }

  /// The XSAVE area of a restored thread, of as many bytes as this CPU's has.
  public static func extendedState(of info: ThreadInfoX86, size: Int) -> [UInt8] {
    let e = info.fpregs
    var area = [UInt8](repeating: 0, count: size)
    area.withUnsafeMutableBytes { bytes in
      func put<T: FixedWidthInteger>(_ values: [T], at offset: Int, limit: Int) {
        let room = max(min(limit, bytes.count) - offset, 0) / MemoryLayout<T>.size * MemoryLayout<T>.size
        values.withUnsafeBytes {
          UnsafeMutableRawBufferPointer(rebasing: bytes[min(offset, bytes.count)...])
            .copyMemory(from: UnsafeRawBufferPointer(rebasing: $0.prefix(room)))
        }
      }
      func put<T: FixedWidthInteger>(_ values: [T], _ component: Component) {
        if let range = component.range { put(values, at: range.lowerBound, limit: range.upperBound) }
      }
      put([e.cwd, e.swd, e.twd, e.fop].map { UInt16(truncatingIfNeeded: $0) }, at: 0, limit: 8)
      put([e.rip, e.rdp], at: 8, limit: 24)
      put([e.mxcsr, e.mxcsrMask], at: 24, limit: 32)
      put(e.stSpace, at: 32, limit: 160)
      put(e.xmmSpace, at: 160, limit: 416)
      // Without an xsave part the legacy area is all there is: x87 and SSE.
      put([e.xsave.map { $0.xstateBv & expressible } ?? 3], at: headerOffset, limit: headerOffset + 8)
      guard let x = e.xsave else { return }
      put(x.ymmhSpace, .ymm)
      put(x.bndregState, .boundRegisters)
      put(x.bndcsrState, .boundConfiguration)
      put(x.opmaskReg, .opmask)
      put(x.zmmUpper, .zmmUpper)
      put(x.hi16Zmm, .hi16ZMM)
      put(x.pkru, .pkru)
    }
    return area
  }
}
