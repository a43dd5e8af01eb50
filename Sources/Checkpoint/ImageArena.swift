import CProtobufC
import Glibc

/// Memory for the C structs of one message at a time: taken piece by piece, given back all at once.
///
/// libprotobuf-c allocates here when it decodes, so what a hostile image can make it take is bounded, and nothing has to
/// be freed one by one. An arena serves one message after another; it is not for two threads at once.
public struct ImageArena: ~Copyable {
  /// What the C callbacks see, hence at a fixed address.
  struct State {
    var allocator = ProtobufCAllocator()
    var next: UnsafeMutableRawPointer
    var end: UnsafeMutableRawPointer
    /// The newest chunk that was added; the first bytes of each hold the one before it.
    var added: UnsafeMutableRawPointer?
    var addedBytes = 0
    /// How much may be added.
    var limit = Int.max
    /// No decoding below this stack address.
    var stackFloor: UInt = 0
  }

  let state: UnsafeMutablePointer<State>
  private let first: UnsafeMutableRawPointer

  private static let firstBytes = 32 << 10
  private static let alignment = 16

  public init() {
    let first = UnsafeMutableRawPointer.allocate(byteCount: Self.firstBytes, alignment: Self.alignment)
    let state = UnsafeMutablePointer<State>.allocate(capacity: 1)
    state.initialize(to: State(next: first, end: first + Self.firstBytes))
    state.pointee.allocator = ProtobufCAllocator(
      alloc: { state, bytes in ImageArena.allocateWithinBounds(state, bytes) },
      free: { _, _ in },
      allocator_data: state)
    self.first = first
    self.state = state
  }

  deinit {
    reset()
    first.deallocate()
    state.deallocate()
  }

  /// Gives everything back. Nothing may point into the arena any more: values are copied out before.
  func reset() {
    while let chunk = state.pointee.added {
      state.pointee.added = chunk.load(as: UnsafeMutableRawPointer?.self)
      chunk.deallocate()
    }
    state.pointee.addedBytes = 0
    state.pointee.next = first
    state.pointee.end = first + Self.firstBytes
  }

  /// Uninitialized memory, aligned to 16 bytes, valid until `reset`.
  func allocate(_ bytes: Int) -> UnsafeMutableRawPointer {
    Self.allocate(state, bytes)
  }

  private static func allocate(_ state: UnsafeMutablePointer<State>, _ bytes: Int) -> UnsafeMutableRawPointer
  {
    let size = (bytes + alignment - 1) & ~(alignment - 1)
    if size > state.pointee.end - state.pointee.next { addChunk(state, size) }
    let piece = state.pointee.next
    state.pointee.next += size
    return piece
  }

  private static func addChunk(_ state: UnsafeMutablePointer<State>, _ size: Int) {
    let bytes = max(size, state.pointee.addedBytes, firstBytes) + alignment
    let chunk = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: alignment)
    chunk.storeBytes(of: state.pointee.added, as: UnsafeMutableRawPointer?.self)
    state.pointee.added = chunk
    state.pointee.addedBytes += bytes
    state.pointee.next = chunk + alignment
    state.pointee.end = chunk + bytes
  }
}

// MARK: - Decoding

extension ImageArena {
  /// How much memory the structs of a message may take: more than any real one needs for its length (a number of a
  /// repeated field, two bytes in the image, takes some 80 while it is decoded), and in no case more than 512 MiB.
  private static func limit(forMessageOf bytes: Int) -> Int { min((1 << 20) + 128 * bytes, 512 << 20) }

  /// How much stack the decoder may use. libprotobuf-c recurses for nested messages and sets no bound; each level takes
  /// about a kilobyte, and a cgroup tree is the only thing that nests deeper than five.
  private static let stackBytes: UInt = 256 << 10

  /// Decodes a message by libprotobuf-c and copies it into a value.
  func decode<Message: CMessage>(_ bytes: RawSpan) throws(ImageError) -> Message {
    state.pointee.limit = Self.limit(forMessageOf: bytes.byteCount)
    state.pointee.stackFloor = Self.stackAddress() - Self.stackBytes
    defer { reset() }
    // Sound: the bytes are only read during the call, and the value owns copies of all it keeps.
    let message: Message? = bytes.withUnsafeBytes { bytes in
      Message.unpack(&state.pointee.allocator, bytes.count, bytes.bindMemory(to: UInt8.self).baseAddress)
        .map { Message(raising: $0) }
    }
    guard let message else { throw ImageError(.malformed(message: "\(Message.self)", detail: nil)) }
    return message
  }

  /// libprotobuf-c's way in: nil makes it give up on the message.
  private static func allocateWithinBounds(_ data: UnsafeMutableRawPointer?, _ bytes: Int)
    -> UnsafeMutableRawPointer?
  {
    guard let state = data?.assumingMemoryBound(to: State.self), stackAddress() >= state.pointee.stackFloor,
      bytes >= 0, bytes <= state.pointee.limit - state.pointee.addedBytes
    else { return nil }
    return allocate(state, bytes)
  }

  /// About where the stack is; it grows down.
  @inline(never)
  private static func stackAddress() -> UInt {
    var here: UInt8 = 0
    return withUnsafeMutablePointer(to: &here) { UInt(bitPattern: $0) }
  }
}

/// A required message: libprotobuf-c decodes nothing that lacks one.
func raise<Message: CMessage>(_ c: UnsafeMutablePointer<Message.C>?) -> Message {
  c.map { Message(raising: $0) } ?? Message()
}

func raise<Message: CMessage>(_ c: UnsafeMutablePointer<Message.C>?) -> Message? {
  c.map { Message(raising: $0) }
}

func raise<Message: CMessage>(
  _ count: Int, _ c: UnsafeMutablePointer<UnsafeMutablePointer<Message.C>?>?
) -> [Message] {
  UnsafeBufferPointer(start: c, count: c == nil ? 0 : count).map { raise($0) }
}

func raise<Scalar>(_ count: Int, _ c: UnsafeMutablePointer<Scalar>?) -> [Scalar] {
  Array(UnsafeBufferPointer(start: c, count: c == nil ? 0 : count))
}

func raise(_ c: ProtobufCBinaryData) -> [UInt8] {
  raise(c.len, c.data)
}

func raise(_ c: UnsafeMutablePointer<CChar>?) -> String {
  c.map { String(cString: $0) } ?? ""
}

func raise(_ c: UnsafeMutablePointer<CChar>?) -> String? {
  c.map { String(cString: $0) }
}

func raise(_ c: UnsafeMutablePointer<CChar>?) -> [UInt8]? {
  c.map { c in Array(UnsafeRawBufferPointer(start: c, count: strlen(c))) }
}

func raise(_ c: UnsafeMutablePointer<CChar>?) -> [UInt8] {
  raise(c) ?? []
}

func raise(_ count: Int, _ c: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?) -> [String] {
  UnsafeBufferPointer(start: c, count: c == nil ? 0 : count).map { raise($0) }
}

// MARK: - Encoding

extension ImageArena {
  func lower<Message: CMessage>(_ message: Message) -> UnsafeMutablePointer<Message.C> {
    let c = allocate(of: Message.C.self, count: 1)
    message.lower(to: c, in: self)
    return c
  }

  func lower<Message: CMessage>(
    _ messages: [Message]
  ) -> (Int, UnsafeMutablePointer<UnsafeMutablePointer<Message.C>?>?) {
    if messages.isEmpty { return (0, nil) }
    let pointers = allocate(of: UnsafeMutablePointer<Message.C>?.self, count: messages.count)
    let structs = allocate(of: Message.C.self, count: messages.count)
    for (index, message) in messages.enumerated() {
      message.lower(to: structs + index, in: self)
      (pointers + index).initialize(to: structs + index)
    }
    return (messages.count, pointers)
  }

  func lower<Scalar: BitwiseCopyable>(_ scalars: [Scalar]) -> (Int, UnsafeMutablePointer<Scalar>?) {
    if scalars.isEmpty { return (0, nil) }
    let c = allocate(of: Scalar.self, count: scalars.count)
    scalars.withUnsafeBufferPointer { source in
      if let start = source.baseAddress { c.initialize(from: start, count: source.count) }
    }
    return (scalars.count, c)
  }

  func lower(_ bytes: [UInt8]) -> ProtobufCBinaryData {
    let (count, data) = lower(bytes)
    return ProtobufCBinaryData(len: count, data: data)
  }

  func lower(_ string: String) -> UnsafeMutablePointer<CChar> {
    terminated(string.utf8)
  }

  func lower(_ string: [UInt8]) -> UnsafeMutablePointer<CChar> {
    terminated(string)
  }

  func lower(_ strings: [String]) -> (Int, UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?) {
    if strings.isEmpty { return (0, nil) }
    let pointers = allocate(of: UnsafeMutablePointer<CChar>?.self, count: strings.count)
    for (index, string) in strings.enumerated() {
      (pointers + index).initialize(to: lower(string))
    }
    return (strings.count, pointers)
  }

  /// A C string; the format has no strings with a NUL inside, so one ends there.
  private func terminated(_ bytes: some Collection<UInt8>) -> UnsafeMutablePointer<CChar> {
    let c = allocate(of: UInt8.self, count: bytes.count + 1)
    // Sound: there is room for all of the bytes and the NUL after them.
    _ = UnsafeMutableBufferPointer(start: c, count: bytes.count).initialize(from: bytes)
    c[bytes.count] = 0
    return UnsafeMutableRawPointer(c).assumingMemoryBound(to: CChar.self)
  }

  private func allocate<Value>(of type: Value.Type, count: Int) -> UnsafeMutablePointer<Value> {
    allocate(count * MemoryLayout<Value>.stride).bindMemory(to: type, capacity: count)
  }
}
