/// A message of the wire format as a tree, as far as its bytes tell: what looks like a message inside is taken for one. Lengths are
/// right again when it is written.
indirect enum WireTree {
  case varint(field: UInt64, UInt64)
  case fixed(field: UInt64, type: UInt64, [UInt8])
  case bytes(field: UInt64, [UInt8])
  case message(field: UInt64, [WireTree])

  static func parse(_ bytes: ArraySlice<UInt8>, depth: Int = 0) -> [WireTree]? {
    var rest = bytes
    var nodes: [WireTree] = []
    while !rest.isEmpty {
      guard let tag = takeVarint(&rest), tag >> 3 != 0 else { return nil }
      let field = tag >> 3
      switch tag & 7 {
      case 0:
        guard let value = takeVarint(&rest) else { return nil }
        nodes.append(.varint(field: field, value))
      case 1, 5:
        let size = tag & 7 == 1 ? 8 : 4
        guard rest.count >= size else { return nil }
        nodes.append(.fixed(field: field, type: tag & 7, Array(rest.prefix(size))))
        rest = rest.dropFirst(size)
      case 2:
        guard let length = takeVarint(&rest), length <= UInt64(rest.count) else { return nil }
        let part = rest.prefix(Int(length))
        rest = rest.dropFirst(Int(length))
        if depth < 8, part.count > 1, let inner = parse(part, depth: depth + 1) {
          nodes.append(.message(field: field, inner))
        } else {
          nodes.append(.bytes(field: field, Array(part)))
        }
      default: return nil
      }
    }
    return nodes
  }

  func write(to bytes: inout [UInt8]) {
    switch self {
    case .varint(let field, let value):
      Self.put(field << 3, &bytes)
      Self.put(value, &bytes)
    case .fixed(let field, let type, let value):
      Self.put(field << 3 | type, &bytes)
      bytes += value
    case .bytes(let field, let value):
      Self.put(field << 3 | 2, &bytes)
      Self.put(UInt64(value.count), &bytes)
      bytes += value
    case .message(let field, let nodes):
      var inner: [UInt8] = []
      for node in nodes { node.write(to: &inner) }
      WireTree.bytes(field: field, inner).write(to: &bytes)
    }
  }

  private static func takeVarint(_ rest: inout ArraySlice<UInt8>) -> UInt64? {
    var value: UInt64 = 0
    for shift in stride(from: 0, to: 70, by: 7) {
      guard let byte = rest.popFirst() else { return nil }
      value |= UInt64(byte & 0x7f) << UInt64(shift)
      if byte < 0x80 { return value }
    }
    return nil
  }

  private static func put(_ value: UInt64, _ bytes: inout [UInt8]) {
    var value = value
    while value >= 0x80 {
      bytes.append(UInt8(truncatingIfNeeded: value) | 0x80)
      value >>= 7
    }
    bytes.append(UInt8(value))
  }
}
