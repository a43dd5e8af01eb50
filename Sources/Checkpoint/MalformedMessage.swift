import CProtobufC

/// Finds out what is wrong with a message that libprotobuf-c refuses: it does not say.
///
/// This is slow: it runs when decoding has failed, and before decoding a message that can hold itself. It
/// follows the encoding as libprotobuf-c does (protobuf.dev, "Encoding") and stops at the first thing that is
/// not as the message's descriptor has it.
struct MalformedMessage {
  /// The field where the fault is, with the fields that lead to it: `fpregs.xsave.xstate_bv`.
  private var path: [String] = []
  private var bytes: UnsafeRawBufferPointer
  private var position: Int

  /// How deep messages may nest; libprotobuf-c takes about a kilobyte of stack for each level. A tree of
  /// cgroups is the only thing that nests deeper than five.
  private static let deepest = 100

  /// What is wrong, in words, with positions counted from the start of the message; nil if it is none of the
  /// message's own faults.
  static func fault<Message: CMessage>(in bytes: UnsafeRawBufferPointer, of type: Message.Type) -> String? {
    var search = MalformedMessage(bytes: bytes, position: 0)
    do throws(Fault) {
      try search.message(ofLength: bytes.count, descriptor(of: type))
      return nil
    } catch {
      let path = (search.path.count > 6 ? ["…"] : []) + search.path.suffix(6)
      return (path.isEmpty ? "" : "field \(path.joined(separator: ".")): ") + error.words
    }
  }

  /// The name of a message in the format.
  static func name<Message: CMessage>(of type: Message.Type) -> String {
    let qualified = String(cString: descriptor(of: type).pointee.name)
    return String(qualified.split(separator: ".").last ?? "")
  }

  /// protoc-c's description of a message.
  static func descriptor<Message: CMessage>(of type: Message.Type) -> UnsafePointer<
    ProtobufCMessageDescriptor
  > {
    let arena = ImageArena()
    let c = UnsafeRawPointer(arena.lower(Message()))
    // Sound: every C struct of a message begins with a ProtobufCMessage; descriptors are constants.
    return c.assumingMemoryBound(to: ProtobufCMessage.self).pointee.descriptor
  }

  private struct Fault: Error { var words: String }

  private init(bytes: UnsafeRawBufferPointer, position: Int) {
    self.bytes = bytes
    self.position = position
  }

  private mutating func message(ofLength length: Int, _ descriptor: UnsafePointer<ProtobufCMessageDescriptor>)
    throws(Fault)
  {
    if path.count > Self.deepest { throw Fault(words: "nested too deep") }
    let end = position + length
    let fields = UnsafeBufferPointer(
      start: descriptor.pointee.fields, count: Int(descriptor.pointee.n_fields))
    var seen: Set<UInt32> = []
    while position < end {
      let tag = try varint(before: end)
      let number = UInt32(truncatingIfNeeded: tag >> 3)
      let field = fields.first { $0.id == number }
      if number == 0 { throw Fault(words: "0 as a field number before byte \(position)") }
      path.append(field.map { String(cString: $0.name) } ?? "\(number)")
      try value(of: field, wire: Int(tag & 7), before: end)
      path.removeLast()
      seen.insert(number)
    }
    for field in fields where field.label == PROTOBUF_C_LABEL_REQUIRED && !seen.contains(field.id) {
      path.append(String(cString: field.name))
      throw Fault(words: "missing")
    }
  }

  private mutating func value(of field: ProtobufCFieldDescriptor?, wire: Int, before end: Int) throws(Fault) {
    if let field {
      let expected = Self.wireType(field.type)
      let packed = field.label == PROTOBUF_C_LABEL_REPEATED && wire == 2
      if wire != expected, !packed {
        throw Fault(words: "wire type \(wire), not \(expected), before byte \(position)")
      }
    }
    switch wire {
    case 0: _ = try varint(before: end)
    case 1: try skip(8, before: end)
    case 5: try skip(4, before: end)
    case 2:
      let length = try varint(before: end)
      guard length <= UInt64(end - position) else {
        throw Fault(words: "\(length) bytes long, but there are \(end - position) after byte \(position)")
      }
      if let field, field.type == PROTOBUF_C_TYPE_MESSAGE, let descriptor = field.descriptor {
        // Sound: for fields of this type, the descriptor is that of the message (protobuf-c.h).
        try message(
          ofLength: Int(length), descriptor.assumingMemoryBound(to: ProtobufCMessageDescriptor.self))
      } else {
        position += Int(length)
      }
    default: throw Fault(words: "unknown wire type \(wire) before byte \(position)")
    }
  }

  private mutating func varint(before end: Int) throws(Fault) -> UInt64 {
    var value: UInt64 = 0
    for shift in stride(from: UInt64(0), to: 70, by: 7) {
      guard position < end else { throw Fault(words: "cut short at byte \(position)") }
      let byte = bytes[position]
      position += 1
      value |= UInt64(byte & 0x7f) << shift
      if byte < 0x80 { return value }
    }
    throw Fault(words: "a number of more than ten bytes before byte \(position)")
  }

  private mutating func skip(_ count: Int, before end: Int) throws(Fault) {
    guard count <= end - position else { throw Fault(words: "cut short at byte \(end)") }
    position += count
  }

  private static func wireType(_ type: ProtobufCType) -> Int {
    switch type {
    case PROTOBUF_C_TYPE_FIXED64, PROTOBUF_C_TYPE_SFIXED64, PROTOBUF_C_TYPE_DOUBLE: 1
    case PROTOBUF_C_TYPE_STRING, PROTOBUF_C_TYPE_BYTES, PROTOBUF_C_TYPE_MESSAGE: 2
    case PROTOBUF_C_TYPE_FIXED32, PROTOBUF_C_TYPE_SFIXED32, PROTOBUF_C_TYPE_FLOAT: 5
    default: 0
    }
  }
}
