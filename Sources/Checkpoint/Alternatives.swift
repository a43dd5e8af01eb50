/// The optional messages of one that has many of them, of which mostly one is there: held by their field numbers, so that a value is small
/// and copied quickly.
public struct Alternatives: Equatable, Sendable {
  /// A message out of line. Never changed, so that values can share it.
  private class Part: @unchecked Sendable {
    let number: UInt32

    init(_ number: UInt32) { self.number = number }

    func equals(_ other: Part) -> Bool { false }
  }

  private final class Message<Value: Equatable & Sendable>: Part, @unchecked Sendable {
    let value: Value

    init(_ number: UInt32, _ value: Value) {
      self.value = value
      super.init(number)
    }

    override func equals(_ other: Part) -> Bool { (other as? Message<Value>)?.value == value }
  }

  private var first: Part?
  /// Those besides it, in ascending order.
  private var others: [Part] = []

  init() {}

  /// The message of a field. Each field is always asked for by the same type.
  subscript<Value: Equatable & Sendable>(_ number: UInt32) -> Value? {
    get {
      if let first, first.number == number { return (first as? Message<Value>)?.value }
      return (others.first { $0.number == number } as? Message<Value>)?.value
    }
    set {
      if others.isEmpty, first == nil || first?.number == number {
        first = newValue.map { Message(number, $0) }
        return
      }
      var parts = (first.map { [$0] } ?? []) + others
      parts.removeAll { $0.number == number }
      if let newValue { parts.append(Message(number, newValue)) }
      parts.sort { $0.number < $1.number }
      first = parts.first
      others = Array(parts.dropFirst())
    }
  }

  public static func == (a: Self, b: Self) -> Bool {
    func isEqual(_ a: Part, _ b: Part) -> Bool { a === b || a.number == b.number && a.equals(b) }
    switch (a.first, b.first) {
    case (nil, nil): return true
    case (let first?, let other?): return isEqual(first, other) && a.others.elementsEqual(b.others, by: isEqual)
    default: return false
    }
  }
}
