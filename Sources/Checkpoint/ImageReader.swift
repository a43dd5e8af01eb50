import SystemPackage

/// Reads an image entry by entry, with raw bytes between them where the kind has such.
///
/// It keeps a window of the file in memory: a small image takes one read, and a large one, or one that lies
/// about lengths, never takes more memory than its longest entry.
public struct ImageReader: ~Copyable {
  public let file: ImageFile
  /// How many entries have been read.
  public private(set) var entry = 0
  /// Where the next entry or raw byte is, in bytes from the start of the file.
  public private(set) var offset: Int

  private var window: FileWindow
  private let arena = ImageArena()

  /// More than the address space with the most mappings needs (65 530 by default, some 60 bytes each).
  private static let longestEntry = 64 << 20

  /// Opens an image and checks that it begins with its magic words.
  public init(_ file: ImageFile, in directory: borrowing ImageDirectory) throws(ImageError) {
    var window = try Self.open(file, in: directory)
    try Self.verify(file.fileName, &window, in: directory)
    let offset = try Self.passMagic(of: file, &window)
    self.file = file
    self.offset = offset
    self.window = window
  }

  /// Reads once more, and at the same time, what another reader has opened and found to be what is expected.
  public init(_ file: ImageFile, openedAs descriptor: FileDescriptor) throws(ImageError) {
    var window: FileWindow
    do throws(Errno) {
      window = FileWindow(try SystemCalls.duplicate(descriptor), size: try SystemCalls.size(descriptor))
    } catch {
      throw ImageError(file: file.fileName, .system(call: "duplicate the descriptor", error))
    }
    let offset = try Self.passMagic(of: file, &window)
    self.file = file
    self.offset = offset
    self.window = window
  }

  /// The descriptor of the file, to take raw bytes by splice(2) or the like, at the offsets that `skip`
  /// returns. It stays the reader's.
  public var fileDescriptor: FileDescriptor { window.descriptor.value }

  /// The size of the file in bytes.
  public var size: Int { window.size }

  /// Whether all of the file has been read.
  public var isAtEnd: Bool { offset == window.size }

  /// Reads all entries that are left, which are of one type.
  public mutating func rest<Message: ImageMessage>(_ type: Message.Type = Message.self) throws(ImageError) -> [Message] {
    var messages: [Message] = []
    let start = offset
    while let message = try next(type) {
      // Room for all, if they are as long as the first: to grow is to touch new memory. A file that is mostly hole is not believed.
      if messages.isEmpty, !isAtEnd {
        messages.reserveCapacity(min(1 + (size - offset) / max(offset - start, 1), (4 << 20) / MemoryLayout<Message>.stride))
      }
      messages.append(message)
    }
    return messages
  }

  /// Reads an entry; nil at the end of the file.
  public mutating func next<Message: ImageMessage>(_ type: Message.Type = Message.self) throws(ImageError)
    -> Message?
  {
    if isAtEnd { return nil }
    let length = try entryLength()
    let message: Message = try decode(offset + 4, length)
    passed(entry: offset + 4 + length)
    return message
  }

  /// How many bytes the next entry has, after the word that says so.
  mutating func entryLength() throws(ImageError) -> Int {
    do throws(ImageError.Problem) {
      let length = Int(try window.word(at: offset))
      guard length <= Self.longestEntry else { throw .tooLong(length: length, limit: Self.longestEntry) }
      try window.check(offset + 4, length)
      return length
    } catch {
      throw failure(error)
    }
  }

  /// The message in some bytes of the file.
  mutating func decode<Message: ImageMessage>(_ start: Int, _ count: Int) throws(ImageError) -> Message {
    do throws(ImageError.Problem) {
      try window.hold(start, count)
    } catch {
      throw failure(error)
    }
    do throws(ImageError) {
      return try Message(decoding: window.bytes(start, count).bytes, in: arena)
    } catch {
      throw failure(error.problem)
    }
  }

  /// Bytes of the file, valid until the next are asked for.
  mutating func held(_ start: Int, _ count: Int) throws(ImageError) -> UnsafeRawBufferPointer {
    do throws(ImageError.Problem) {
      try window.hold(start, count)
    } catch {
      throw failure(error)
    }
    return window.bytes(start, count)
  }

  mutating func copy(_ start: Int, _ count: Int) throws(ImageError) -> [UInt8] {
    do throws(ImageError.Problem) {
      return try window.copy(start, count)
    } catch {
      throw failure(error)
    }
  }

  mutating func passed(entry end: Int) {
    offset = end
    entry += 1
  }

  /// Reads raw bytes, such as follow the entry that was read last; 64 MiB at most.
  public mutating func raw(_ count: Int) throws(ImageError) -> [UInt8] {
    do throws(ImageError.Problem) {
      // A file that is nothing but a hole can be of any size.
      guard count <= Self.longestEntry else { throw .tooLong(length: count, limit: Self.longestEntry) }
      let bytes = try window.copy(offset, count)
      offset += count
      return bytes
    } catch {
      throw failure(error)
    }
  }

  /// Passes over raw bytes and returns the offset in the file where they begin.
  @discardableResult
  public mutating func skip(_ count: Int) throws(ImageError) -> Int {
    do throws(ImageError.Problem) {
      try window.check(offset, count)
    } catch {
      throw failure(error)
    }
    defer { offset += count }
    return offset
  }

  private static func open(_ file: ImageFile, in directory: borrowing ImageDirectory) throws(ImageError)
    -> FileWindow
  {
    let descriptor = try directory.openOwned(file.fileName)
    do {
      let size = try SystemCalls.size(descriptor.value)
      return FileWindow(descriptor, size: size)
    } catch {
      throw ImageError(file: file.fileName, .system(call: "find the size", error))
    }
  }

  /// What fits into the window is read only once.
  private static func verify(_ name: String, _ window: inout FileWindow, in directory: borrowing ImageDirectory)
    throws(ImageError)
  {
    guard directory.expected[name] != nil else { return }
    guard window.size <= FileWindow.usualBytes else { return try directory.verify(name, window.descriptor.value) }
    do throws(ImageError.Problem) {
      try window.hold(0, window.size)
    } catch {
      throw ImageError(file: name, error)
    }
    try directory.verify(name, window.bytes(0, window.size))
  }

  private static func passMagic(of file: ImageFile, _ window: inout FileWindow) throws(ImageError) -> Int {
    var offset = 0
    let magic = file.magic
    do throws(ImageError.Problem) {
      for expected in [magic.first, magic.second] {
        guard let expected else { continue }
        let found = try window.word(at: offset)
        if found != expected { throw .wrongMagic(found: found, expected: expected) }
        offset += 4
      }
    } catch {
      throw ImageError(file: file.fileName, error)
    }
    return offset
  }

  private func failure(_ problem: ImageError.Problem) -> ImageError {
    ImageError(file: file.fileName, entry: entry, problem)
  }
}
