import ProcessTree

/// Spoils an image: blindly, or in its structure, so that what is wrong is found late.
struct Mutation {
  var random: SplitMix64

  private static let numbers: [UInt64] = [
    0, 1, 2, 3, 7, 127, 128, 255, 256, 4095, 4096, 4097, 65535, 65536, 1 << 20, 1 << 22, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
    1 << 40, (1 << 47) - 4096, 1 << 47, (1 << 63) - 1, 1 << 63, .max - 4095, .max - 1, .max,
  ]
  private static let texts = [
    "", "/", "..", "/dev/zero", "/proc/self/fd/0", "../../../x", "/tmp", "/bin/sleep", "a\0b", "[heap]", "[vdso]",
  ]

  mutating func apply(to image: [UInt8], headerWords: Int) -> [UInt8] {
    var image = image
    for _ in 0...Int.random(in: 0..<3, using: &random) {
      image = Int.random(in: 0..<5, using: &random) == 0 ? blind(image) : structured(image, headerWords * 4)
    }
    return image
  }

  private mutating func blind(_ image: [UInt8]) -> [UInt8] {
    var image = image
    guard !image.isEmpty else { return [0] }
    let at = Int.random(in: 0..<image.count, using: &random)
    switch Int.random(in: 0..<5, using: &random) {
    case 0: image[at] ^= 1 << UInt8.random(in: 0..<8, using: &random)
    case 1: image.removeSubrange(at...)
    case 2: image.insert(contentsOf: image.prefix(at), at: at)
    case 3: image.remove(at: at)
    default:
      var number = Self.numbers.randomElement(using: &random) ?? 0
      for i in at..<min(at + [1, 2, 4, 8][Int.random(in: 0..<4, using: &random)], image.count) {
        image[i] = UInt8(truncatingIfNeeded: number)
        number >>= 8
      }
    }
    return image
  }

  private mutating func structured(_ image: [UInt8], _ header: Int) -> [UInt8] {
    var entries: [[UInt8]] = []
    var rest = image.dropFirst(header)
    while rest.count >= 4 {
      let length = rest.prefix(4).reversed().reduce(0) { $0 << 8 | Int($1) }
      guard length <= rest.count - 4 else { break }
      entries.append(Array(rest.dropFirst(4).prefix(length)))
      rest = rest.dropFirst(4 + length)
    }
    guard !entries.isEmpty else { return blind(image) }
    let at = Int.random(in: 0..<entries.count, using: &random)
    switch Int.random(in: 0..<12, using: &random) {
    case 0: entries.remove(at: at)
    case 1: entries.insert(entries[at], at: Int.random(in: 0...entries.count, using: &random))
    case 2: entries.swapAt(at, Int.random(in: 0..<entries.count, using: &random))
    default:
      guard var nodes = WireTree.parse(entries[at][...]) else { return blind(image) }
      spoil(&nodes)
      entries[at] = []
      for node in nodes { node.write(to: &entries[at]) }
    }
    var made = Array(image.prefix(header))
    for entry in entries {
      for shift in stride(from: 0, to: 32, by: 8) { made.append(UInt8(truncatingIfNeeded: entry.count >> shift)) }
      made += entry
    }
    return made + rest
  }

  /// Changes one node somewhere in the tree.
  private mutating func spoil(_ nodes: inout [WireTree]) {
    guard !nodes.isEmpty else {
      nodes = [.varint(field: UInt64.random(in: 1..<20, using: &random), number(like: 0))]
      return
    }
    let at = Int.random(in: 0..<nodes.count, using: &random)
    if case .message(let field, var inner) = nodes[at], Int.random(in: 0..<6, using: &random) != 0 {
      spoil(&inner)
      nodes[at] = .message(field: field, inner)
      return
    }
    switch Int.random(in: 0..<8, using: &random) {
    case 0: nodes.remove(at: at)
    case 1: nodes.append(nodes[at])
    case 2: nodes.swapAt(at, Int.random(in: 0..<nodes.count, using: &random))
    default:
      switch nodes[at] {
      case .varint(let field, let value): nodes[at] = .varint(field: field, number(like: value))
      case .fixed(let field, let type, let bytes):
        nodes[at] = .fixed(field: field, type: type, bytes.map { _ in UInt8.random(in: 0...255, using: &random) })
      case .bytes(let field, let bytes):
        let text = Array((Self.texts.randomElement(using: &random) ?? "").utf8)
        nodes[at] = .bytes(field: field, Bool.random(using: &random) ? text : blind(bytes))
      case .message(let field, let inner): nodes[at] = .message(field: field, inner + inner.shuffled(using: &random))
      }
    }
  }

  private mutating func number(like value: UInt64) -> UInt64 {
    switch Int.random(in: 0..<6, using: &random) {
    case 0: value &+ 1
    case 1: value &- 1
    case 2: value ^ (1 << UInt64.random(in: 0..<64, using: &random))
    case 3: value &+ 4096
    default: Self.numbers.randomElement(using: &random) ?? 0
    }
  }
}
