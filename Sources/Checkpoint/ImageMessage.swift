import CProtobufC

/// A message of the image format, as a plain value.
///
/// The types in `Messages/` are generated from `images/*.proto`. A field that the format requires starts out
/// as zero or empty; an optional one as nil; a repeated one as an empty array.
public protocol ImageMessage: Equatable, Sendable {
  init()

  /// Decodes the protobuf encoding of one message. Fields that the type does not know are skipped.
  /// - Throws: an ``ImageError`` without a file name, for the caller to complete, when the bytes are not such
  ///   a message.
  init(decoding bytes: RawSpan, in arena: borrowing ImageArena) throws(ImageError)

  /// Appends the protobuf encoding, without a length before it.
  func encode(into buffer: inout ImageBuffer)
}

extension ImageMessage {
  /// Decodes one message by itself; a caller with many of them keeps an arena.
  public init(decoding bytes: RawSpan) throws(ImageError) {
    try self.init(decoding: bytes, in: ImageArena())
  }
}

/// What the generated types add: the way to and from the struct that libprotobuf-c works on.
///
/// "Raising" copies a C struct into a Swift value; "lowering" builds the C struct, and what it points to, in
/// an arena.
protocol CMessage: ImageMessage {
  associatedtype C

  /// Whether a message can hold, at some depth, one that holds another of its own type.
  static var isRecursive: Bool { get }

  /// protoc-c's decoder for the message; nil when the bytes are not one.
  static func unpack(
    _ allocator: UnsafeMutablePointer<ProtobufCAllocator>, _ count: Int, _ bytes: UnsafePointer<UInt8>?
  ) -> UnsafeMutablePointer<C>?

  init(raising c: UnsafePointer<C>)
  func lower(to c: UnsafeMutablePointer<C>, in arena: borrowing ImageArena)
}

extension CMessage {
  static var isRecursive: Bool { false }
}

/// An optional value that is kept out of line, so that a struct with many alternatives stays small.
@propertyWrapper
public enum Boxed<Value: Equatable & Sendable>: Equatable, Sendable {
  case none
  indirect case some(Value)

  public init(wrappedValue: Value?) {
    if let wrappedValue { self = .some(wrappedValue) } else { self = .none }
  }

  public var wrappedValue: Value? {
    get {
      switch self {
      case .none: nil
      case .some(let value): value
      }
    }
    set { self = Boxed(wrappedValue: newValue) }
  }

  /// The box itself, which several values can share until one of them changes it.
  public var projectedValue: Boxed<Value> {
    get { self }
    set { self = newValue }
  }
}
