import Testing

@testable import Resources

/// Another kernel's vDSO is forwarded function by function, wherever they are in each.
@Suite struct VDSOPatchTests {
  @Test func functionsAreFoundByName() throws {
    let old = Self.vdso([("__vdso_clock_gettime", 0x700), ("clock_gettime", 0x700), ("__vdso_getcpu", 0x800), ("__vdso_getrandom", 0x900)])
    let new = Self.vdso([("__vdso_getrandom", 0x720), ("__vdso_clock_gettime", 0x910), ("clock_gettime", 0x910)])
    let patch = try #require(old.withUnsafeBytes { old in new.withUnsafeBytes { VDSOPatch(recorded: old, own: $0, at: 0x7000_0000) } })
    #expect(patch.writes.map(\.offset) == [0x700, 0x800, 0x900])
    #expect(patch.writes[0].bytes == [0xff, 0x25, 0, 0, 0, 0, 0x10, 0x09, 0, 0x70, 0, 0, 0, 0])
    // What this kernel does not have is its system call, and so is what has a state: getcpu is 309, getrandom 318.
    #expect(patch.writes[1].bytes == [0xb8, 0x35, 1, 0, 0, 0x0f, 0x05, 0xc3])
    #expect(patch.writes[2].bytes == [0xb8, 0x3e, 1, 0, 0, 0x0f, 0x05, 0xc3])
  }

  @Test(arguments: [
    // Nobody knows what it does; there is no room for the jump.
    [("__vdso_sgx_enter_enclave", 0x700)], [("__vdso_time", 0x700), ("__vdso_clock_gettime", 0x704)], [("__vdso_time", 0xffc)],
  ])
  func whatCannotStandInIsRefused(_ functions: [(String, UInt64)]) {
    let own = Self.vdso([("__vdso_time", 0x700), ("__vdso_clock_gettime", 0x800)])
    let patch = Self.vdso(functions).withUnsafeBytes { old in own.withUnsafeBytes { VDSOPatch(recorded: old, own: $0, at: 0) } }
    #expect(patch == nil)
  }

  /// Whatever the images have there, nothing outside of it is read or written.
  @Test func damagedOnesDoNoHarm() {
    let own = Self.vdso([("__vdso_time", 0x700)])
    let whole = Self.vdso([("__vdso_time", 0x700), ("__vdso_getcpu", 0x800)])
    for at in 0..<0x400 {
      for bit: UInt8 in [1, 0x80] {
        var spoiled = whole
        spoiled[at] ^= bit
        let patch = spoiled.withUnsafeBytes { old in own.withUnsafeBytes { VDSOPatch(recorded: old, own: $0, at: 0) } }
        for (offset, bytes) in patch?.writes ?? [] { #expect(offset + UInt64(bytes.count) <= UInt64(whole.count)) }
      }
    }
    for count in stride(from: 0, to: whole.count, by: 7) {
      _ = whole[..<count].withUnsafeBytes { old in own.withUnsafeBytes { VDSOPatch(recorded: old, own: $0, at: 0) } }
    }
  }

  /// A page with the headers, a dynamic section, a hash table, symbols and their names.
  static func vdso(_ functions: [(String, UInt64)]) -> [UInt8] {
    var file = [UInt8](repeating: 0, count: 4096)
    func put<T: FixedWidthInteger>(_ value: T, _ at: Int) {
      withUnsafeBytes(of: value.littleEndian) { for (i, byte) in $0.enumerated() { file[at + i] = byte } }
    }
    file.replaceSubrange(0..<6, with: [0x7f, 0x45, 0x4c, 0x46, 2, 1])
    put(UInt64(64), 32)  // e_phoff
    put(UInt16(2), 56)  // e_phnum
    put(UInt32(1), 64)  // PT_LOAD of the whole
    put(UInt64(4096), 64 + 32)
    put(UInt32(2), 120)  // PT_DYNAMIC
    put(UInt64(0x100), 120 + 8)
    put(UInt64(0x100), 120 + 16)
    put(UInt64(80), 120 + 32)
    for (i, (tag, value)) in [(4, 0x180), (5, 0x300), (6, 0x200), (10, 0x100), (0, 0)].enumerated() {
      put(UInt64(tag), 0x100 + i * 16)
      put(UInt64(value), 0x108 + i * 16)
    }
    put(UInt32(1), 0x180)
    put(UInt32(functions.count + 1), 0x184)
    var name = 0x301
    for (i, (text, offset)) in functions.enumerated() {
      let symbol = 0x200 + (i + 1) * 24
      put(UInt32(name - 0x300), symbol)
      file[symbol + 4] = 0x12  // STB_GLOBAL, STT_FUNC
      put(UInt16(7), symbol + 6)
      put(offset, symbol + 8)
      file.replaceSubrange(name..<name + text.utf8.count, with: Array(text.utf8))
      name += text.utf8.count + 1
    }
    return file
  }
}
