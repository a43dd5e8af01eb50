import Glibc
import SystemPackage

/// The folder of an image set.
///
/// Files are opened relative to a descriptor of the folder and never through a symbolic link, and only their
/// owner may read them: images hold all of a program's secrets.
public struct ImageDirectory: ~Copyable, Sendable {
  /// The path it was opened by, for messages.
  public let path: FilePath
  private let folder: OwnedDescriptor
  /// Of the files that were written here, and of those that are to be read.
  let written = WrittenChecksums()
  let expected = ExpectedChecksums()

  /// Opens the folder of an image set to read it.
  public init(opening path: FilePath) throws(ImageError) {
    folder = try Self.open(folder: path)
    self.path = path
  }

  /// Opens a folder to write an image set into it, and makes it (mode 0700) if it is not there. An inventory
  /// that is in it is removed, so that what is in the folder is not taken for a whole set until it is one
  /// again.
  public init(creating path: FilePath) throws(ImageError) {
    folder = try Self.make(folder: path)
    written.folder = folder.value
    self.path = path
  }

  private static func open(folder path: FilePath) throws(ImageError) -> OwnedDescriptor {
    do {
      return try SystemCalls.openat(nil, path.string, O_RDONLY | O_DIRECTORY)
    } catch {
      throw ImageError(file: path.string, .system(call: "open the folder", error))
    }
  }

  private static func make(folder path: FilePath) throws(ImageError) -> OwnedDescriptor {
    do {
      try SystemCalls.mkdir(path.string, mode: 0o700)
    } catch .fileExists {
    } catch {
      throw ImageError(file: path.string, .system(call: "make the folder", error))
    }
    let folder = try open(folder: path)
    try remove(ImageFile.inventory.fileName, in: folder.value)
    return folder
  }

  /// The descriptor of the folder; it is closed with this value.
  public var descriptor: FileDescriptor { folder.value }

  /// Whether users other than the folder's owner can put files of theirs in the place of images.
  public var isOpenToOthers: Bool { SystemCalls.isOpenToOthers(descriptor) }

  /// Whether the name of any file in it begins so.
  public func hasAny(_ prefix: String) -> Bool {
    var found = false
    SystemCalls.forEachName(descriptor) { found = found || $0.starts(with: prefix.utf8) }
    return found
  }

  /// Whether there is such a file, or should be one.
  public func contains(_ file: ImageFile) -> Bool {
    expects(file) || SystemCalls.exists(descriptor, file.fileName)
  }

  /// Makes a new file (mode 0600) in place of any there is, and writes nothing: for raw images, such as
  /// `pages-N.img`, that something else fills. The caller closes the descriptor.
  public func create(_ file: ImageFile) throws(ImageError) -> FileDescriptor {
    try createOwned(file.fileName).release()
  }

  /// Opens a file, at its beginning, without looking at the header. The caller closes the descriptor.
  public func open(_ file: ImageFile) throws(ImageError) -> FileDescriptor {
    try openOwned(file.fileName).release()
  }

  func openOwned(_ name: String) throws(ImageError) -> OwnedDescriptor {
    do {
      return try SystemCalls.openat(descriptor, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK)
    } catch {
      throw ImageError(file: name, .system(call: "open", error))
    }
  }

  /// `O_EXCL` makes sure that the file is new: nobody has it open, and its mode is ours.
  func createOwned(_ name: String) throws(ImageError) -> OwnedDescriptor {
    let flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW
    do {
      return try SystemCalls.openat(descriptor, name, flags, mode: 0o600)
    } catch .fileExists {
      try Self.remove(name, in: descriptor)
    } catch {
      throw ImageError(file: name, .system(call: "create", error))
    }
    do {
      return try SystemCalls.openat(descriptor, name, flags, mode: 0o600)
    } catch {
      throw ImageError(file: name, .system(call: "create", error))
    }
  }

  private static func remove(_ name: String, in folder: FileDescriptor) throws(ImageError) {
    do {
      try SystemCalls.unlinkat(folder, name)
    } catch .noSuchFileOrDirectory {
    } catch {
      throw ImageError(file: name, .system(call: "remove", error))
    }
  }
}

// MARK: - Whole files

extension ImageDirectory {
  /// Writes an image of one entry, in one system call.
  public func write(_ message: some ImageMessage, to file: ImageFile, using buffer: inout ImageBuffer)
    throws(ImageError)
  {
    buffer.start(file)
    buffer.append(entry: message)
    try writeWhole(buffer, to: file.fileName)
    try note(file, Checksum(of: buffer.unsafeBytes))
  }

  /// Writes `mm-N.img`. The mappings are encoded one by one, since they may be very many, and come last: the order of fields means nothing
  /// (protobuf.dev, "Encoding").
  public func write(mappings memory: MmEntry, to file: ImageFile, using buffer: inout ImageBuffer) throws(ImageError) {
    var others = memory
    others.vmas = []
    buffer.start(file)
    buffer.appendEntry { buffer in
      others.encode(into: &buffer)
      for vma in memory.vmas { buffer.append(vma, inField: MmEntry.vmasField) }
    }
    try writeWhole(buffer, to: file.fileName)
    try note(file, Checksum(of: buffer.unsafeBytes))
  }

  /// Writes an image of several entries, without anything between them, in one system call.
  public func write(_ messages: [some ImageMessage], to file: ImageFile, using buffer: inout ImageBuffer)
    throws(ImageError)
  {
    buffer.start(file)
    for message in messages { buffer.append(entry: message) }
    try writeWhole(buffer, to: file.fileName)
    try note(file, Checksum(of: buffer.unsafeBytes))
  }

  /// Writes an image by a writer that `body` appends to.
  public func write(
    _ file: ImageFile, using buffer: inout ImageBuffer,
    by body: (inout ImageWriter) throws(ImageError) -> Void
  ) throws(ImageError) {
    // If anything fails, the caller is left with the empty one.
    var taken = ImageBuffer()
    swap(&taken, &buffer)
    var writer = try ImageWriter(file, in: self, buffer: taken)
    try body(&writer)
    buffer = try writer.finish()
  }

  /// Writes `inventory.img`, which makes the set complete: when all else is written, and at once by a rename. It has the checksums of
  /// the others.
  /// - Parameter sync: Wait until it is on the disk, and the names of all files with it. That their content
  ///   is there is for the caller to see to before.
  public func writeInventory(_ inventory: InventoryEntry, sync: Bool, using buffer: inout ImageBuffer)
    throws(ImageError)
  {
    let name = ImageFile.inventory.fileName
    let temporary = name + ".new"
    do throws(ImageError) {
      let file = try createOwned(temporary)
      do {
        try write(inventory, to: file.value, using: &buffer)
        if sync { try SystemCalls.fsync(file.value) }
        try file.close()
      } catch {
        throw ImageError(file: temporary, .system(call: "write", error))
      }
      do {
        try SystemCalls.renameat(descriptor, temporary, to: name)
        if sync { try SystemCalls.fsync(descriptor) }
      } catch {
        throw ImageError(file: name, .system(call: "put into place", error))
      }
    } catch {
      // The first error is the one that tells; the set is incomplete with or without this file.
      do { try Self.remove(temporary, in: descriptor) } catch {}
      throw error
    }
  }

  /// Reads an image that has one entry, or the first one of another.
  public func read<Message: ImageMessage>(_ type: Message.Type = Message.self, from file: ImageFile)
    throws(ImageError) -> Message
  {
    var reader = try ImageReader(file, in: self)
    guard let message = try reader.next(type) else {
      throw ImageError(file: file.fileName, .missing(message: "\(type)"))
    }
    return message
  }

  /// Reads an image that has nothing but entries of one type.
  public func readAll<Message: ImageMessage>(_ type: Message.Type = Message.self, from file: ImageFile)
    throws(ImageError) -> [Message]
  {
    var reader = try ImageReader(file, in: self)
    return try reader.rest(type)
  }

  /// Notes what was written, for the inventory.
  func note(_ file: ImageFile, _ checksum: Checksum) throws(ImageError) {
    do {
      try written.note(file, checksum)
    } catch {
      throw ImageError(file: file.fileName, .system(call: "keeping the checksum", error))
    }
  }

  private func writeWhole(_ buffer: borrowing ImageBuffer, to name: String) throws(ImageError) {
    let file = try createOwned(name)
    do {
      try SystemCalls.write(file.value, buffer.unsafeBytes)
      try file.close()
    } catch {
      throw ImageError(file: name, .system(call: "write", error))
    }
  }
}

extension ImageBuffer {
  /// Begins an image: nothing but its magic words.
  mutating func start(_ file: ImageFile) {
    removeAll()
    let magic = file.magic
    if let word = magic.first { append(word) }
    if let word = magic.second { append(word) }
  }
}
