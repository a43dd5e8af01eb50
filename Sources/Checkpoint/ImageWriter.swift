import SystemPackage

/// Writes an image entry by entry, with raw bytes between them where the kind has such.
///
/// Bytes are collected and written when there are many, so a small image takes one write. The memory comes
/// from the caller and goes back with `finish`, for the next image. An image that is not finished stays
/// behind cut short.
public struct ImageWriter: ~Copyable {
  public let file: ImageFile
  private let descriptor: OwnedDescriptor
  private var buffer: ImageBuffer
  private var entry = 0
  private var checksum = RunningChecksum()
  /// Where the checksum of the finished file goes; none where others wrote to it.
  private var noted: WrittenChecksums?

  private static let flushBytes = 256 << 10

  /// Makes the file (mode 0600), in place of any there is.
  public init(
    _ file: ImageFile, in directory: borrowing ImageDirectory, buffer: consuming ImageBuffer = ImageBuffer()
  ) throws(ImageError) {
    self.file = file
    descriptor = try directory.createOwned(file.fileName)
    noted = directory.written
    buffer.start(file)
    self.buffer = buffer
  }

  /// Appends an entry.
  public mutating func append(_ message: some ImageMessage) throws(ImageError) {
    buffer.append(entry: message)
    try flushIfLarge()
    entry += 1
  }

  /// Appends bytes without a length: what belongs to the entry before, or all there is in a raw image.
  public mutating func append(raw bytes: RawSpan) throws(ImageError) {
    buffer.append(bytes)
    try flushIfLarge()
  }

  /// Appends bytes without a length.
  public mutating func append(raw bytes: [UInt8]) throws(ImageError) {
    try append(raw: bytes.span.bytes)
  }

  /// Hands out the file's descriptor, to append raw bytes by splice(2) or the like. All before them is
  /// written, and the offset is the end of the file; it has to be that again afterwards. The descriptor stays
  /// the writer's.
  public mutating func appendRaw<Result>(
    by body: (FileDescriptor) throws(ImageError) -> Result
  ) throws(ImageError) -> Result {
    try flush()
    noted = nil
    return try body(descriptor.value)
  }

  /// Writes what is left, closes the file, and gives back the memory.
  @discardableResult
  public consuming func finish() throws(ImageError) -> ImageBuffer {
    try flush()
    let name = file.fileName
    do {
      try descriptor.close()
    } catch {
      throw ImageError(file: name, .system(call: "close", error))
    }
    if let value = checksum.value, let noted {
      do {
        try noted.note(file, value)
      } catch {
        throw ImageError(file: name, .system(call: "keeping the checksum", error))
      }
    }
    return buffer
  }

  private mutating func flushIfLarge() throws(ImageError) {
    if buffer.count >= Self.flushBytes { try flush() }
  }

  private mutating func flush() throws(ImageError) {
    do {
      try SystemCalls.write(descriptor.value, buffer.unsafeBytes)
      checksum.add(buffer.unsafeBytes)
    } catch {
      throw ImageError(file: file.fileName, entry: entry, .system(call: "write", error))
    }
    buffer.removeAll()
  }
}
