import CProtobufC

/// Bytes on their way into an image: memory that grows, and is used again for one image after another.
public struct ImageBuffer: ~Copyable {
  private var start: UnsafeMutableRawPointer
  private var capacity: Int
  private let arena = ImageArena()

  /// How many bytes there are.
  public private(set) var count = 0

  public init() {
    capacity = 16 << 10
    start = .allocate(byteCount: capacity, alignment: 16)
  }

  deinit { start.deallocate() }

  /// The bytes.
  public var bytes: RawSpan {
    @_lifetime(borrow self)
    get {
      let span = unsafeBytes.bytes
      // Sound: the memory belongs to the buffer, which is borrowed, hence unchanged, as long as the span is used.
      return _overrideLifetime(span, borrowing: self)
    }
  }

  /// The same, for system calls.
  var unsafeBytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: start, count: count) }

  /// Forgets the bytes and keeps the memory.
  public mutating func removeAll() { count = 0 }

  /// Appends bytes as they are.
  public mutating func append(_ bytes: RawSpan) {
    bytes.withUnsafeBytes { bytes in
      reserve(bytes.count)
      // Sound: reserve made room for them, and a span cannot alias a buffer that is being changed.
      if let source = bytes.baseAddress { (start + count).copyMemory(from: source, byteCount: bytes.count) }
    }
    count += bytes.byteCount
  }

  /// Appends a number in little-endian order.
  public mutating func append(_ number: UInt32) {
    reserve(4)
    (start + count).storeBytes(of: number.littleEndian, as: UInt32.self)
    count += 4
  }

  /// Appends an entry of an image: the length, then the message.
  public mutating func append(entry message: some ImageMessage) {
    let position = count
    append(UInt32(0))
    message.encode(into: &self)
    let length = UInt32(truncatingIfNeeded: count - position - 4)
    (start + position).storeBytes(of: length.littleEndian, as: UInt32.self)
  }

  /// Appends the encoding of a message, by libprotobuf-c.
  mutating func encode<Message: CMessage>(_ message: Message) {
    // Sound: every C struct of a message begins with a ProtobufCMessage, and lowering has set its descriptor.
    let c = UnsafeRawPointer(arena.lower(message)).assumingMemoryBound(to: ProtobufCMessage.self)
    let size = protobuf_c_message_get_packed_size(c)
    reserve(size)
    protobuf_c_message_pack(c, (start + count).assumingMemoryBound(to: UInt8.self))
    count += size
    arena.reset()
  }

  private mutating func reserve(_ more: Int) {
    guard count + more > capacity else { return }
    capacity = max(2 * capacity, count + more)
    let moved = UnsafeMutableRawPointer.allocate(byteCount: capacity, alignment: 16)
    moved.copyMemory(from: start, byteCount: count)
    start.deallocate()
    start = moved
  }
}
