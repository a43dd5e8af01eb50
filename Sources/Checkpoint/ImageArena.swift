import CProtobufC
import Glibc

/// Memory for the C structs of one message at a time: taken piece by piece, given back all at once.
///
/// libprotobuf-c allocates here when it decodes, so what a hostile image can make it take is bounded, and
/// nothing has to be freed one by one. An arena serves one message after another; it is not for two threads
/// at once.
public struct ImageArena: ~Copyable {
  /// What the C callbacks see, hence at a fixed address.
  struct State {
    var allocator = ProtobufCAllocator()
    /// The first chunk: it stays when the others go.
    var first: UnsafeMutableRawPointer?
    /// The newest of the other chunks; the first bytes of each hold the one before it.
    var added: UnsafeMutableRawPointer?
    var addedBytes = 0
    /// The next free byte, and how many there are in its chunk.
    var next: UnsafeMutableRawPointer?
    var free = 0
    /// How many bytes may be added.
    var limit = Int.max
  }

  let state: UnsafeMutablePointer<State>
  private let most: Int

  private static let firstBytes = 32 << 10
  private static let alignment = 16

  public init() {
    self.init(most: 512 << 20)
  }

  /// - Parameter most: How many bytes decoding may take, whatever the length of the message.
  init(most: Int) {
    self.most = most
    state = .allocate(capacity: 1)
    state.initialize(to: State())
    state.pointee.allocator = ProtobufCAllocator(
      alloc: { state, bytes in ImageArena.allocateWithinBounds(state, bytes) },
      free: { _, _ in },
      allocator_data: state)
  }

  deinit {
    reset()
    state.pointee.first?.deallocate()
    state.deallocate()
  }

  /// Gives everything back. Nothing may point into the arena any more: values are copied out before.
  func reset() {
    while let chunk = state.pointee.added {
      state.pointee.added = chunk.load(as: UnsafeMutableRawPointer?.self)
      chunk.deallocate()
    }
    state.pointee.addedBytes = 0
    state.pointee.next = state.pointee.first
    state.pointee.free = state.pointee.first == nil ? 0 : Self.firstBytes
  }

  /// Uninitialized memory, aligned to 16 bytes, valid until `reset`.
  func allocate(_ bytes: Int) -> UnsafeMutableRawPointer {
    Self.allocate(state, bytes)
  }

  private static func allocate(_ state: UnsafeMutablePointer<State>, _ bytes: Int) -> UnsafeMutableRawPointer {
    let size = (bytes + alignment - 1) & ~(alignment - 1)
    let piece: UnsafeMutableRawPointer
    if let next = state.pointee.next, size <= state.pointee.free {
      piece = next
    } else {
      piece = addChunk(state, size)
    }
    state.pointee.next = piece + size
    state.pointee.free -= size
    return piece
  }

  /// Adds a chunk with room for at least `size` bytes, and returns where its free bytes begin.
  private static func addChunk(_ state: UnsafeMutablePointer<State>, _ size: Int) -> UnsafeMutableRawPointer {
    if state.pointee.first == nil, size <= firstBytes {
      let chunk = UnsafeMutableRawPointer.allocate(byteCount: firstBytes, alignment: alignment)
      state.pointee.first = chunk
      state.pointee.free = firstBytes
      return chunk
    }
    let bytes = max(size, state.pointee.addedBytes, firstBytes)
    let chunk = UnsafeMutableRawPointer.allocate(byteCount: alignment + bytes, alignment: alignment)
    chunk.storeBytes(of: state.pointee.added, as: UnsafeMutableRawPointer?.self)
    state.pointee.added = chunk
    state.pointee.addedBytes += bytes
    state.pointee.free = bytes
    return chunk + alignment
  }
}

// MARK: - Decoding

extension ImageArena {
  /// How much memory the structs of a message may take: more than any real one needs for its length (a number
  /// of a repeated field, two bytes in the image, takes some 80 while it is decoded).
  private func limit(forMessageOf bytes: Int) -> Int { min((1 << 20) + 128 * bytes, most) }

  /// Decodes a message by libprotobuf-c and copies it into a value.
  func decode<Message: CMessage>(_ bytes: RawSpan) throws(ImageError) -> Message {
    state.pointee.limit = limit(forMessageOf: bytes.byteCount)
    defer { reset() }
    // Sound: the bytes are only read during the call, and the value owns copies of all it keeps.
    return try bytes.withUnsafeBytes { bytes throws(ImageError) in
      // libprotobuf-c recurses for nested messages and sets no bound, so that is checked before.
      if Message.isRecursive, let fault = MalformedMessage.fault(in: bytes, of: Message.self) {
        throw malformed(Message.self, fault)
      }
      let start = bytes.bindMemory(to: UInt8.self).baseAddress
      if let c = Message.unpack(&state.pointee.allocator, bytes.count, start) { return Message(raising: c) }
      let fault = MalformedMessage.fault(in: bytes, of: Message.self)
      throw malformed(Message.self, fault ?? "it takes more memory than any real one")
    }
  }

  private func malformed<Message: CMessage>(_ type: Message.Type, _ fault: String) -> ImageError {
    ImageError(.malformed(message: MalformedMessage.name(of: type), detail: fault))
  }

  /// libprotobuf-c's way in: nil makes it give up on the message.
  private static func allocateWithinBounds(_ data: UnsafeMutableRawPointer?, _ bytes: Int)
    -> UnsafeMutableRawPointer?
  {
    guard let state = data?.assumingMemoryBound(to: State.self), bytes >= 0,
      bytes <= state.pointee.limit - state.pointee.addedBytes
    else { return nil }
    return allocate(state, bytes)
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
