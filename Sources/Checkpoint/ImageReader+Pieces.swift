import SystemPackage

extension ImageReader {
  /// Reads an entry of which one repeated field can have very many messages: they are passed on one after the other, and neither they nor
  /// their bytes are held. The entry comes without them; nil at the end of the file.
  ///
  /// An entry is the fields that it has, whatever their order (protobuf.dev, "Encoding").
  ///
  /// - Parameter places: Only messages that begin at these offsets in the file are passed on: so two readers can share the work.
  mutating func next<Message: ImageMessage, Item: ImageMessage>(
    _ type: Message.Type, passingOn field: UInt64, beginningAt places: Range<Int> = 0..<Int.max,
    _ body: (Item) throws(ImageError) -> Void
  ) throws(ImageError) -> Message? {
    if isAtEnd { return nil }
    let length = try entryLength()
    var others: [UInt8] = []
    let end = offset + 4 + length
    var position = offset + 4
    while position < end {
      guard let next = try self.field(at: position, before: end) else { throw try malformed(type) }
      if next.number == field, next.isMessage {
        defer { position = next.content.upperBound }
        guard places.contains(position) else { continue }
        let item: Item
        do throws(ImageError) { item = try decode(next.content.lowerBound, next.content.count) } catch { throw try malformed(type) }
        try body(item)
      } else {
        others += try copy(position, next.content.upperBound - position)
        position = next.content.upperBound
      }
    }
    let message: Message
    do throws(ImageError) {
      message = try Message(decoding: others.span.bytes)
    } catch {
      throw try malformed(type)
    }
    passed(entry: end)
    return message
  }

  /// The mappings of a process: `mm-N.img`. Only those that begin at some offsets in the file, with all else that there is.
  public mutating func mappings(beginningAt places: Range<Int> = 0..<Int.max) throws(ImageError) -> MmEntry {
    let missing = ImageError(file: file.fileName, .missing(message: "\(MmEntry.self)"))
    if size <= FileWindow.usualBytes, places.lowerBound == 0, places.upperBound >= size {
      // Few take as much memory as they need.
      guard let entry = try next(MmEntry.self) else { throw missing }
      return entry
    }
    var vmas: [VmaEntry] = []
    let bytes = size
    let read = try next(MmEntry.self, passingOn: MmEntry.vmasField, beginningAt: places) { (vma: VmaEntry) in
      // Room for all that the file may have, 24 bytes each: to grow is to touch new memory. One that is mostly hole is not believed.
      if vmas.isEmpty { vmas.reserveCapacity(min(bytes / 24, (4 << 20) / MemoryLayout<VmaEntry>.stride)) }
      vmas.append(vma)
    }
    guard var entry = read else { throw missing }
    entry.vmas = vmas
    return entry
  }

  /// The decoder says what is wrong with an entry, when it sees the whole of it.
  private mutating func malformed<Message: ImageMessage>(_ type: Message.Type) throws(ImageError) -> ImageError {
    let number = entry
    _ = try next(type)
    return ImageError(file: file.fileName, entry: number, .malformed(message: "\(type)", detail: "its fields cannot be told apart"))
  }

  private typealias Field = (number: UInt64, isMessage: Bool, content: Range<Int>)

  /// A field, and where its content is in the file; nil if it is not one, or does not end in time.
  private mutating func field(at start: Int, before end: Int) throws(ImageError) -> Field? {
    var position = start
    guard let tag = try number(at: &position, before: end) else { return nil }
    let begin = position
    let type = tag & 7
    switch type {
    case 0: if try number(at: &position, before: end) == nil { return nil }
    case 1: position += 8
    case 2:
      guard let length = try number(at: &position, before: end), length <= UInt64(end - position) else { return nil }
      return (tag >> 3, true, position..<(position + Int(length)))
    case 5: position += 4
    default: return nil
    }
    return position <= end ? (tag >> 3, false, begin..<position) : nil
  }

  /// A varint, of ten bytes at most.
  private mutating func number(at position: inout Int, before end: Int) throws(ImageError) -> UInt64? {
    let bytes = try held(position, min(10, end - position))
    var value: UInt64 = 0
    for (i, byte) in bytes.enumerated() {
      value |= UInt64(byte & 0x7f) << (7 * UInt64(i))
      if byte & 0x80 == 0 {
        position += i + 1
        return value
      }
    }
    return nil
  }
}

extension MmEntry {
  /// `vmas` (images/mm.proto).
  static var vmasField: UInt64 { 14 }
}
