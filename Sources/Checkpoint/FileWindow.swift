import SystemPackage

/// A file of which a part is in memory.
struct FileWindow: ~Copyable {
  let descriptor: OwnedDescriptor
  /// The size of the file in bytes, when it was opened.
  let size: Int

  private var memory: UnsafeMutableRawBufferPointer
  /// Which bytes of the file the memory holds.
  private var held = 0..<0

  static let usualBytes = 64 << 10

  init(_ descriptor: consuming OwnedDescriptor, size: Int) {
    self.descriptor = descriptor
    self.size = size
    memory = .allocate(byteCount: min(max(size, 16), Self.usualBytes), alignment: 16)
  }

  deinit { memory.deallocate() }

  /// A little-endian number.
  mutating func word(at offset: Int) throws(ImageError.Problem) -> UInt32 {
    try hold(offset, 4)
    return UInt32(littleEndian: bytes(offset, 4).loadUnaligned(as: UInt32.self))
  }

  /// A copy of some bytes; many of them are read past the window.
  mutating func copy(_ offset: Int, _ count: Int) throws(ImageError.Problem) -> [UInt8] {
    if count <= Self.usualBytes {
      try hold(offset, count)
      return Array(bytes(offset, count))
    }
    try check(offset, count)
    var failure: Errno?
    let copy = [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
      do throws(Errno) {
        let buffer = UnsafeMutableRawBufferPointer(start: buffer.baseAddress, count: count)
        filled = try SystemCalls.pread(descriptor.value, into: buffer, at: offset)
      } catch {
        failure = error
      }
    }
    if let failure { throw .system(call: "read", failure) }
    guard copy.count == count else { throw .cutShort(end: offset + copy.count, needed: offset + count) }
    return copy
  }

  /// Makes sure that the memory holds the `count` bytes from `offset` on.
  mutating func hold(_ offset: Int, _ count: Int) throws(ImageError.Problem) {
    try check(offset, count)
    if offset >= held.lowerBound, offset + count <= held.upperBound { return }
    if count > memory.count {
      let larger = max(count, min(2 * memory.count, size))
      memory.deallocate()
      memory = .allocate(byteCount: larger, alignment: 16)
    }
    held = 0..<0
    let wanted = UnsafeMutableRawBufferPointer(rebasing: memory[..<min(memory.count, size - offset)])
    do {
      held = offset..<(offset + (try SystemCalls.pread(descriptor.value, into: wanted, at: offset)))
    } catch {
      throw .system(call: "read", error)
    }
    // The file was made shorter after it was opened.
    guard held.count >= count else { throw .cutShort(end: held.upperBound, needed: offset + count) }
  }

  /// Bytes that are held, valid until the next call of `hold`.
  func bytes(_ offset: Int, _ count: Int) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(rebasing: memory[(offset - held.lowerBound)..<(offset - held.lowerBound + count)])
  }

  /// Makes sure that the file has the bytes.
  func check(_ offset: Int, _ count: Int) throws(ImageError.Problem) {
    guard count >= 0, count <= size - offset else {
      throw .cutShort(end: size, needed: offset.addingReportingOverflow(count).partialValue)
    }
  }
}
