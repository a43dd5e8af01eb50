import CProtobufC

/// Bytes on their way into an image: memory that grows, and is used again for one image after another.
public struct ImageBuffer: ~Copyable {
  /// Nothing is allocated before it is needed.
  private var memory = UnsafeMutableRawBufferPointer(start: nil, count: 0)
  private let arena = ImageArena()

  /// How many bytes there are.
  public private(set) var count = 0

  public init() {}

  deinit { memory.deallocate() }

  /// The bytes.
  public var bytes: RawSpan {
    @_lifetime(borrow self)
    get {
      let span = unsafeBytes.bytes
      // Sound: the memory belongs to the buffer, which is borrowed, hence unchanged, as long as the span is
      // used.
      return _overrideLifetime(span, borrowing: self)
    }
  }

  /// The same, for system calls.
  var unsafeBytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[..<count]) }

  /// Forgets the bytes and keeps the memory.
  public mutating func removeAll() { count = 0 }

  /// Appends bytes as they are.
  public mutating func append(_ bytes: RawSpan) {
    bytes.withUnsafeBytes { bytes in room(for: bytes.count).copyMemory(from: bytes) }
  }

  /// Appends a number in little-endian order.
  public mutating func append(_ number: UInt32) {
    room(for: 4).storeBytes(of: number.littleEndian, as: UInt32.self)
  }

  /// Puts a number in the place of the last eight bytes.
  mutating func replaceLast(_ number: UInt64) {
    memory.storeBytes(of: number.littleEndian, toByteOffset: count - 8, as: UInt64.self)
  }

  /// Appends an entry of an image: the length, then the message.
  public mutating func append(entry message: some ImageMessage) { appendEntry { message.encode(into: &$0) } }

  /// The same with what `encode` appends.
  mutating func appendEntry(_ encode: (inout ImageBuffer) -> Void) {
    let position = count
    append(UInt32(0))
    encode(&self)
    let length = UInt32(truncatingIfNeeded: count - position - 4)
    memory.storeBytes(of: length.littleEndian, toByteOffset: position, as: UInt32.self)
  }

  /// Appends the encoding of a message, by libprotobuf-c.
  mutating func encode<Message: CMessage>(_ message: Message) {
    // Sound: every C struct of a message begins with a ProtobufCMessage, and lowering has set its descriptor.
    let c = UnsafeRawPointer(arena.lower(message)).assumingMemoryBound(to: ProtobufCMessage.self)
    let place = room(for: protobuf_c_message_get_packed_size(c)).bindMemory(to: UInt8.self)
    protobuf_c_message_pack(c, place.baseAddress)
    arena.reset()
  }

  /// Appends one message of a repeated field (protobuf.dev, "Encoding").
  mutating func append<Message: CMessage>(_ message: Message, inField number: UInt64) {
    // Sound: as above.
    let c = UnsafeRawPointer(arena.lower(message)).assumingMemoryBound(to: ProtobufCMessage.self)
    let size = protobuf_c_message_get_packed_size(c)
    append(varint: number << 3 | 2)
    append(varint: UInt64(size))
    protobuf_c_message_pack(c, room(for: size).bindMemory(to: UInt8.self).baseAddress)
    arena.reset()
  }

  private mutating func append(varint number: UInt64) {
    var rest = number
    while rest > 0x7f {
      room(for: 1)[0] = UInt8(rest & 0x7f) | 0x80
      rest >>= 7
    }
    room(for: 1)[0] = UInt8(rest)
  }

  /// Lengthens the bytes and returns the place of the new ones, valid until the next call.
  private mutating func room(for more: Int) -> UnsafeMutableRawBufferPointer {
    if count + more > memory.count { grow(to: count + more) }
    defer { count += more }
    return UnsafeMutableRawBufferPointer(rebasing: memory[count..<(count + more)])
  }

  private mutating func grow(to least: Int) {
    let larger = UnsafeMutableRawBufferPointer.allocate(
      byteCount: max(least, 2 * memory.count, 16 << 10), alignment: 16)
    larger.copyMemory(from: unsafeBytes)
    memory.deallocate()
    memory = larger
  }
}
