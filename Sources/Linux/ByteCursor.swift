import Glibc

/// Walks over the text of a /proc file without making strings of it.
public struct ByteCursor {
  public let bytes: UnsafeRawBufferPointer
  public var position = 0

  /// The caller keeps the bytes alive while the cursor is used.
  @inlinable public init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  @inlinable public var atEnd: Bool { position >= bytes.count }
  @inlinable public var peek: UInt8? { atEnd ? nil : bytes[position] }

  @inlinable public mutating func skip(_ n: Int = 1) { position = min(position + n, bytes.count) }

  /// Skips spaces and tabs.
  @inlinable public mutating func skipBlanks() {
    while position < bytes.count, bytes[position] == 0x20 || bytes[position] == 0x09 { position += 1 }
  }

  /// A decimal number, with an optional minus sign; 0 if none stands here. Wraps on overflow.
  @inlinable public mutating func decimal() -> Int64 {
    var negative = false
    if peek == UInt8(ascii: "-") {
      negative = true
      position += 1
    }
    let magnitude = Int64(truncatingIfNeeded: unsigned())
    return negative ? 0 &- magnitude : magnitude
  }

  /// An unsigned decimal number. Wraps on overflow.
  @inlinable public mutating func unsigned() -> UInt64 {
    var value: UInt64 = 0
    while position < bytes.count {
      let digit = bytes[position] &- 0x30
      guard digit < 10 else { break }
      value = value &* 10 &+ UInt64(digit)
      position += 1
    }
    return value
  }

  @inlinable public mutating func octal() -> UInt64 {
    var value: UInt64 = 0
    while position < bytes.count {
      let digit = bytes[position] &- 0x30
      guard digit < 8 else { break }
      value = value &<< 3 | UInt64(digit)
      position += 1
    }
    return value
  }

  @inlinable public mutating func hex() -> UInt64 {
    var value: UInt64 = 0
    while position < bytes.count {
      let c = bytes[position]
      let digit: UInt8
      switch c {
      case 0x30...0x39: digit = c &- 0x30
      case 0x61...0x66: digit = c &- 0x57
      case 0x41...0x46: digit = c &- 0x37
      default: return value
      }
      value = value &<< 4 | UInt64(digit)
      position += 1
    }
    return value
  }

  /// The bytes up to, without, the next `end`, which is skipped.
  @inlinable public mutating func upTo(_ end: UInt8) -> UnsafeRawBufferPointer {
    let start = position
    while position < bytes.count, bytes[position] != end { position += 1 }
    let part = UnsafeRawBufferPointer(rebasing: bytes[start..<position])
    skip()
    return part
  }

  @inlinable public mutating func line() -> UnsafeRawBufferPointer { upTo(0x0a) }

  /// Goes behind the next end of a line.
  @inlinable public mutating func skipLine() {
    guard position < bytes.count, let start = bytes.baseAddress else { return }
    guard let end = memchr(start + position, 0x0a, bytes.count - position) else { return position = bytes.count }
    position = UnsafeRawPointer(end) - start + 1
  }

  /// Whether a line begins with `text`, so many bytes ahead.
  func startsLine(_ text: StaticString, ahead count: Int) -> Bool {
    var there = self
    there.position += count
    return there.position < bytes.count && bytes[there.position - 1] == 0x0a && there.startsWith(text)
  }

  /// Whether `text` stands here.
  @inlinable public func startsWith(_ text: StaticString) -> Bool {
    guard bytes.count - position >= text.utf8CodeUnitCount else { return false }
    for i in 0..<text.utf8CodeUnitCount where bytes[position + i] != text.utf8Start[i] { return false }
    return true
  }
}
