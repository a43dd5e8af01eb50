import CImages
import CProtobufC

@testable import Checkpoint

/// Makes the encoding of a message from its description alone, without the code under test.
struct WireSample {
  /// Whether optional fields are there.
  var optional = true
  /// How many of each repeated field.
  var repeated = 3
  private var number: UInt64 = 0
  private var depth = 0

  init(optional: Bool = true, repeated: Int = 3) {
    self.optional = optional
    self.repeated = repeated
  }

  mutating func bytes<Message: CMessage>(of type: Message.Type) -> [UInt8] {
    message(MalformedMessage.descriptor(of: type))
  }

  private mutating func message(_ descriptor: UnsafePointer<ProtobufCMessageDescriptor>) -> [UInt8] {
    var bytes: [UInt8] = []
    let fields = UnsafeBufferPointer(
      start: descriptor.pointee.fields, count: Int(descriptor.pointee.n_fields))
    for field in fields {
      let count =
        switch field.label {
        case PROTOBUF_C_LABEL_REQUIRED: 1
        case PROTOBUF_C_LABEL_OPTIONAL: optional ? 1 : 0
        default: depth < 4 ? repeated : 0
        }
      for _ in 0..<count { bytes += value(of: field) }
    }
    return bytes
  }

  private mutating func value(of field: ProtobufCFieldDescriptor) -> [UInt8] {
    number += 1
    let id = UInt64(field.id) << 3
    // Two's complement and zigzag: see protobuf.dev, "Encoding".
    let negative = UInt64(bitPattern: -Int64(number))
    switch field.type {
    case PROTOBUF_C_TYPE_UINT32, PROTOBUF_C_TYPE_UINT64: return varint(id) + varint(number)
    case PROTOBUF_C_TYPE_INT32, PROTOBUF_C_TYPE_INT64: return varint(id) + varint(negative)
    case PROTOBUF_C_TYPE_SINT32, PROTOBUF_C_TYPE_SINT64: return varint(id) + varint(number << 1 | 1)
    case PROTOBUF_C_TYPE_BOOL: return varint(id) + [1]
    case PROTOBUF_C_TYPE_FIXED64:
      return varint(id | 1) + (0..<8).map { UInt8(truncatingIfNeeded: number >> ($0 * 8)) }
    case PROTOBUF_C_TYPE_ENUM: return varint(id) + varint(enumValue(of: field))
    case PROTOBUF_C_TYPE_STRING, PROTOBUF_C_TYPE_BYTES: return delimited(id, Array("text \(number)".utf8))
    default:
      guard let descriptor = field.descriptor else { return [] }
      depth += 1
      defer { depth -= 1 }
      return delimited(id, message(descriptor.assumingMemoryBound(to: ProtobufCMessageDescriptor.self)))
    }
  }

  /// The second one, as the first is often the default.
  private func enumValue(of field: ProtobufCFieldDescriptor) -> UInt64 {
    guard let descriptor = field.descriptor?.assumingMemoryBound(to: ProtobufCEnumDescriptor.self).pointee
    else {
      return 0
    }
    let values = UnsafeBufferPointer(start: descriptor.values, count: Int(descriptor.n_values))
    return UInt64(values[min(1, values.count - 1)].value)
  }

  private func delimited(_ id: UInt64, _ bytes: [UInt8]) -> [UInt8] {
    varint(id | 2) + varint(UInt64(bytes.count)) + bytes
  }
}

func varint(_ number: UInt64) -> [UInt8] {
  var rest = number
  var bytes: [UInt8] = []
  while rest >= 0x80 {
    bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
    rest >>= 7
  }
  return bytes + [UInt8(rest)]
}
