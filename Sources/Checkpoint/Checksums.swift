import CXXHash
import Glibc
import SystemPackage

/// What a file of an image set looks like when it is whole.
///
/// XXH3 finds what a disk or a transfer has changed. It is no signature: who can write the images can write the inventory.
struct Checksum: Equatable, Sendable, BitwiseCopyable {
  var size: Int
  var hash: UInt64
}

/// Those of the files that a dump has written. There are some six for each task: beyond so many they wait in a file for the inventory.
final class WrittenChecksums: @unchecked Sendable {
  private var list: [Note] = []
  /// The folder of the images, if any are to be written.
  var folder: FileDescriptor?
  /// Full lists, one after the other, in a file without a name.
  private var spilled: OwnedDescriptor?
  private var spilledLists = 0
  /// Both threads of a dump note what they have written. Not a `Mutex` of Swift's: where two meet at that the kernel hands it over
  /// (FUTEX_UNLOCK_PI), which ThreadSanitizer does not see.
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

  init() { pthread_mutex_init(mutex, nil) }

  deinit {
    pthread_mutex_destroy(mutex)
    mutex.deallocate()
  }

  private func locked<T>(_ body: () throws(Errno) -> T) throws(Errno) -> T {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return try body()
  }

  /// As bytes it goes into a file and comes back.
  struct Note: BitwiseCopyable {
    var file: ImageFile
    var checksum: Checksum
  }

  /// How many are held in memory: those of some two thousand tasks.
  static let most = 12 << 10

  func note(_ file: ImageFile, _ checksum: Checksum) throws(Errno) {
    try locked { () throws(Errno) in
      list.append(Note(file: file, checksum: checksum))
      if list.count == Self.most { try spill() }
    }
  }

  private func spill() throws(Errno) {
    guard let folder else { throw .badFileDescriptor }
    if spilled == nil { spilled = try SystemCalls.temporary(in: folder) }
    guard let file = spilled?.value else { return }
    var failure: Errno?
    list.withUnsafeBytes { bytes in
      do throws(Errno) { try SystemCalls.write(file, bytes) } catch { failure = error }
    }
    if let failure { throw failure }
    spilledLists += 1
    list.removeAll(keepingCapacity: true)
  }

  /// Hands out all, a list at a time, each by kind and number; what was noted twice, in that order. So the inventory of a dump whose checksums
  /// were all held says nothing of which thread was quicker.
  func forEachList(_ body: ([Note]) throws(Errno) -> Void) throws(Errno) {
    for i in 0..<spilledLists { try body(Self.ordered(try spilledList(i))) }
    try body(Self.ordered(try locked { list }))
  }

  private func spilledList(_ index: Int) throws(Errno) -> [Note] {
    var failure: Errno?
    let notes = [Note](unsafeUninitializedCapacity: Self.most) { notes, count in
      let bytes = UnsafeMutableRawBufferPointer(notes)
      do throws(Errno) {
        guard let file = spilled?.value, try SystemCalls.pread(file, into: bytes, at: index * bytes.count) == bytes.count else {
          throw .ioError
        }
        count = Self.most
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
    return notes
  }

  private static func ordered(_ list: [Note]) -> [Note] {
    let order = list.map(\.file.order)
    return list.indices.sorted { (order[$0], $0) < (order[$1], $1) }.map { list[$0] }
  }
}

/// Those that an inventory has. Files are found by a hash of their names, which takes less room than these.
///
/// One thread fills it and forgets; in between any number may look.
final class ExpectedChecksums: @unchecked Sendable {
  /// In the order of the names' hashes. Whoever reads images has been told of it before.
  private var table: [(name: UInt64, checksum: Checksum)] = []
  /// Which of them have been compared with, by threads that may each note one at the same time.
  private var compared: UnsafeMutableBufferPointer<Bool>?

  deinit { compared?.deallocate() }

  /// Forgets all, and makes room for so many.
  func begin(_ count: Int) {
    table = []
    table.reserveCapacity(count)
  }

  /// Notes what an inventory says of a file. It is not looked for before the end.
  func add(_ entry: ImageChecksumEntry) throws(ImageError) {
    // It is only ever a file of this folder.
    guard !entry.name.isEmpty, !entry.name.contains("/"), entry.name != "..", entry.size <= UInt64(Int64.max) else {
      throw ImageError(
        file: ImageFile.inventory.fileName,
        .malformed(message: "image_checksum_entry", detail: "number \(table.count) has the name '\(entry.name)' and \(entry.size) bytes"))
    }
    table.append((Self.hash(entry.name), Checksum(size: Int(entry.size), hash: entry.xxh3)))
  }

  /// Of two that have the same name the last counts: they stay in their order.
  func end() {
    table.sort { $0.name < $1.name }
    compared?.deallocate()
    compared = .allocate(capacity: table.count)
    compared?.initialize(repeating: false)
  }

  subscript(name: String) -> Checksum? { place(of: name).map { table[$0].checksum } }

  /// The same, for who compares the file with it now.
  func take(_ name: String) -> Checksum? {
    guard let place = place(of: name) else { return nil }
    compared?[place] = true
    return table[place].checksum
  }

  /// What files were compared with is not needed a second time, and there are some six of them for each task.
  func forgetCompared() {
    guard let compared else { return }
    table = table.indices.filter { !compared[$0] }.map { table[$0] }
    end()
  }

  private func place(of name: String) -> Int? {
    if table.isEmpty { return nil }
    let hash = Self.hash(name)
    // The first that is not below, then the last of those that are equal.
    var (low, high) = (0, table.count)
    while low < high {
      let middle = (low + high) / 2
      if table[middle].name <= hash { low = middle + 1 } else { high = middle }
    }
    return low > 0 && table[low - 1].name == hash ? low - 1 : nil
  }

  private static func hash(_ name: String) -> UInt64 {
    var name = name
    return name.withUTF8 { cxx_hash($0.baseAddress, $0.count) }
  }
}

/// A checksum of bytes that come one after the other.
struct RunningChecksum: ~Copyable {
  private let state: OpaquePointer?
  private(set) var size = 0

  init() { state = cxx_start() }
  deinit { if let state { cxx_end(state) } }

  mutating func add(_ bytes: UnsafeRawBufferPointer) {
    size += bytes.count
    if let state { cxx_add(state, bytes.baseAddress, bytes.count) }
  }

  /// `nil` if memory was short.
  var value: Checksum? { state.map { Checksum(size: size, hash: cxx_value($0)) } }
}

extension Checksum {
  init(of bytes: UnsafeRawBufferPointer) {
    self.init(size: bytes.count, hash: cxx_hash(bytes.baseAddress, bytes.count))
  }

  /// Of a file from its beginning to its end, or to so many bytes before that. The buffer is small enough to stay in a core's own cache.
  init(of file: FileDescriptor, without last: Int = 0) throws(Errno) {
    let size = last > 0 ? try SystemCalls.size(file) - last : Int.max
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 128 << 10, alignment: 4096)
    defer { buffer.deallocate() }
    var checksum = RunningChecksum()
    while true {
      let count = try SystemCalls.pread(file, into: buffer, at: checksum.size)
      checksum.add(UnsafeRawBufferPointer(rebasing: buffer[..<max(min(count, size - checksum.size), 0)]))
      if count < buffer.count || checksum.size >= size { break }
    }
    guard let value = checksum.value else { throw .noMemory }
    self = value
  }
}

// MARK: - At a dump

extension ImageDirectory {
  /// The messages that an inventory is written as: its own fields, the checksums of all files that were written, a thousand to a message,
  /// and at the end the place for its own. The pieces of a message are one when they are read (protobuf.dev, Encoding: Last One Wins).
  func forEachPiece(of inventory: InventoryEntry, _ body: (InventoryEntry) throws(Errno) -> Void) throws(Errno) {
    var head = inventory
    head.ownXxh3 = nil
    try body(head)
    try written.forEachList { (notes) throws(Errno) in
      for start in stride(from: 0, to: notes.count, by: 1024) {
        var piece = InventoryEntry()
        piece.imgVersion = inventory.imgVersion
        piece.imageChecksum = notes[start..<min(start + 1024, notes.count)].map { note in
          var entry = ImageChecksumEntry()
          entry.name = note.file.fileName
          entry.size = UInt64(note.checksum.size)
          entry.xxh3 = note.checksum.hash
          return entry
        }
        try body(piece)
      }
    }
    var tail = InventoryEntry()
    (tail.imgVersion, tail.toolVersion, tail.ownXxh3) = (inventory.imgVersion, ToolVersion.name, 0)
    try body(tail)
  }

  /// Writes the inventory piece by piece. It ends with the checksum of all that is before that, in its field of the highest number.
  func write(_ inventory: InventoryEntry, to file: FileDescriptor, using buffer: inout ImageBuffer) throws(Errno) {
    var size = 0
    try forEachPiece(of: inventory) { (piece) throws(Errno) in
      buffer.removeAll()
      piece.encode(into: &buffer)
      size += buffer.count
    }
    var checksum = RunningChecksum()
    buffer.start(.inventory)
    buffer.append(UInt32(truncatingIfNeeded: size))
    try forEachPiece(of: inventory) { (piece) throws(Errno) in
      piece.encode(into: &buffer)
      let isLast = piece.ownXxh3 != nil
      checksum.add(UnsafeRawBufferPointer(rebasing: buffer.unsafeBytes.dropLast(isLast ? ImageBuffer.sealBytes : 0)))
      if isLast {
        guard let value = checksum.value else { throw .noMemory }
        buffer.replaceLast(value.hash)
      }
      try SystemCalls.write(file, buffer.unsafeBytes)
      buffer.removeAll()
    }
  }

  /// Reads the memory images again, which were not written by this process, and notes their checksums.
  public func noteMemory() throws(ImageError) {
    for image in memoryImages {
      let file = try openOwned(image.fileName)
      let checksum: Checksum
      do {
        checksum = try Checksum(of: file.value)
      } catch {
        throw ImageError(file: image.fileName, .system(call: "read", error))
      }
      try note(image, checksum)
    }
  }

  private var memoryImages: [ImageFile] {
    SystemCalls.names(descriptor).compactMap { name in
      guard name.hasPrefix("pages-"), name.hasSuffix(".img"), let id = UInt32(name.dropFirst(6).dropLast(4)) else { return nil }
      return .pages(id)
    }
  }
}

extension ImageBuffer {
  /// The bytes of an inventory's own checksum, a fixed64, which are its last.
  static var sealBytes: Int { 8 }
}

// MARK: - At a restore

extension ImageDirectory {
  /// `image_checksum` (images/inventory.proto).
  private static var checksumField: UInt64 { 1000 }

  /// The inventory without the checksums in it, of which there are some six for each task.
  /// - Parameter expecting: From here on every image that is opened to be read must be as the inventory has it, where that says something
  ///   of it; and the inventory itself is compared with its own checksum.
  public func readInventory(expecting: Bool) throws(ImageError) -> InventoryEntry {
    let file = ImageFile.inventory
    var reader = try ImageReader(file, in: self)
    // An entry takes some forty bytes.
    if expecting { expected.begin(min(reader.size, 64 << 20) / 40) }
    var count = 0
    let read = try reader.next(InventoryEntry.self, passingOn: Self.checksumField) { (entry: ImageChecksumEntry) throws(ImageError) in
      count += 1
      if expecting { try expected.add(entry) }
    }
    guard let inventory = read else { throw ImageError(file: file.fileName, .missing(message: "\(InventoryEntry.self)")) }
    guard expecting else { return inventory }
    expected.end()
    // One with checksums of others has its own.
    if inventory.ownXxh3 == nil, count == 0 { return inventory }
    let found: Checksum
    do {
      found = try Checksum(of: reader.fileDescriptor, without: ImageBuffer.sealBytes)
    } catch {
      throw ImageError(file: file.fileName, .system(call: "read", error))
    }
    guard found.hash == inventory.ownXxh3 else { throw ImageError(file: file.fileName, .wrongChecksum) }
    return inventory
  }

  /// Whether the inventory says something of a file, so that it has to be there.
  public func expects(_ file: ImageFile) -> Bool { expected[file.fileName] != nil }

  /// What images were compared with is not needed a second time.
  public func forgetCompared() { expected.forgetCompared() }

  /// Looks at every file that the inventory says something of, in the order of their names, and tells what is wrong with each. It
  /// has to be what is expected.
  /// - Parameter memory: whether the memory images are read too.
  public func damage(memory: Bool) throws(ImageError) -> [ImageError] {
    var names: Set<String> = []
    var reader = try ImageReader(.inventory, in: self)
    _ = try reader.next(InventoryEntry.self, passingOn: Self.checksumField) { (entry: ImageChecksumEntry) in names.insert(entry.name) }
    var errors: [ImageError] = []
    for name in names.sorted() where memory || !name.hasPrefix("pages-") {
      do throws(ImageError) {
        let file = try openOwned(name)
        try verify(name, file.value)
      } catch {
        errors.append(error)
      }
    }
    return errors
  }

  /// Compares an image with what is expected of it.
  func verify(_ name: String, _ file: FileDescriptor) throws(ImageError) {
    guard let expected = expected.take(name) else { return }
    let size: Int
    let found: Checksum
    do {
      size = try SystemCalls.size(file)
      found = size == expected.size ? try Checksum(of: file) : Checksum(size: size, hash: 0)
    } catch {
      throw ImageError(file: name, .system(call: "read", error))
    }
    try Self.compare(name, found, expected)
  }

  /// The same, of a file that is in memory as a whole.
  func verify(_ name: String, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
    guard let expected = expected.take(name) else { return }
    try Self.compare(name, Checksum(of: bytes), expected)
  }

  private static func compare(_ name: String, _ found: Checksum, _ expected: Checksum)
    throws(ImageError)
  {
    if found.size != expected.size { throw ImageError(file: name, .wrongSize(found: found.size, expected: expected.size)) }
    if found != expected { throw ImageError(file: name, .wrongChecksum) }
  }
}
