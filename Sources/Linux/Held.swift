/// A value that several hold in common, until one of them changes its own.
public struct Held<Value> {
  private final class Box {
    var value: Value
    init(_ value: Value) { self.value = value }
  }

  private var box: Box

  public init(_ value: Value) { box = Box(value) }

  public var value: Value {
    _read { yield box.value }
    _modify {
      if !isKnownUniquelyReferenced(&box) { box = Box(box.value) }
      yield &box.value
    }
  }
}

/// As with an array: who changes it has it alone.
extension Held: @unchecked Sendable where Value: Sendable {}
