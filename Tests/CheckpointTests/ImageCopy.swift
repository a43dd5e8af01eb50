@testable import Checkpoint

/// Copies an image entry by entry, decoding and encoding each, with the raw bytes that belong to it.
func copy(
  _ file: ImageFile, from source: borrowing ImageDirectory, to destination: borrowing ImageDirectory
) throws -> Int {
  var reader = try ImageReader(file, in: source)
  var writer = try ImageWriter(file, in: destination)
  switch file {
  case .inventory: try copy(&reader, &writer, InventoryEntry.self)
  case .pstree: try copy(&reader, &writer, PstreeEntry.self)
  case .core: try copy(&reader, &writer, CoreEntry.self)
  case .ids: try copy(&reader, &writer, TaskKobjIdsEntry.self)
  case .seccomp: try copy(&reader, &writer, SeccompEntry.self)
  case .mm: try copy(&reader, &writer, MmEntry.self)
  case .pagemap:
    if let head = try reader.next(PagemapHead.self) { try writer.append(head) }
    try copy(&reader, &writer, PagemapEntry.self)
  case .fdinfo: try copy(&reader, &writer, FdinfoEntry.self)
  case .files: try copy(&reader, &writer, FileEntry.self)
  case .fs: try copy(&reader, &writer, FsEntry.self)
  case .pipesData: try copy(&reader, &writer, PipeDataEntry.self) { Int($0.bytes) }
  case .skQueues: try copy(&reader, &writer, SkPacketEntry.self) { Int($0.length) }
  case .timens: try copy(&reader, &writer, TimensEntry.self)
  default: try writer.append(raw: reader.raw(reader.size - reader.offset))
  }
  try writer.finish()
  return reader.entry
}

private func copy<Message: ImageMessage>(
  _ reader: inout ImageReader, _ writer: inout ImageWriter, _ type: Message.Type,
  raw: (Message) -> Int = { _ in 0 }
) throws {
  while let message = try reader.next(type) {
    try writer.append(message)
    try writer.append(raw: reader.raw(raw(message)))
  }
}
