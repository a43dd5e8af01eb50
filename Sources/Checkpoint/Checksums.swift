import CXXHash
import Glibc
import SystemPackage

/// What the files of an image set must look like to be whole: at a dump noted as they are written, at a restore as the inventory has it.
///
/// XXH3 finds what a disk or a transfer has changed. It is no signature: who can write the images can write the inventory.
final class Checksums: @unchecked Sendable {
  struct Entry: Equatable, Sendable {
    var size: Int
    var hash: UInt64
  }

  private var entries: [String: Entry] = [:]
  /// Both threads of a dump note what they have written. Not a `Mutex` of Swift's: where two meet at that the kernel hands it over
  /// (FUTEX_UNLOCK_PI), which ThreadSanitizer does not see.
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)

  init() { pthread_mutex_init(mutex, nil) }

  deinit {
    pthread_mutex_destroy(mutex)
    mutex.deallocate()
  }

  private func locked<T>(_ body: () -> T) -> T {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return body()
  }

  func note(_ name: String, _ entry: Entry) { locked { entries[name] = entry } }
  func forget(_ name: String) { locked { entries[name] = nil } }
  func replace(_ list: [String: Entry]) { locked { entries = list } }
  subscript(name: String) -> Entry? { locked { entries[name] } }
  var all: [String: Entry] { locked { entries } }
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
  var entry: Checksums.Entry? { state.map { Checksums.Entry(size: size, hash: cxx_value($0)) } }
}

extension Checksums.Entry {
  init(of bytes: UnsafeRawBufferPointer) {
    self.init(size: bytes.count, hash: cxx_hash(bytes.baseAddress, bytes.count))
  }

  /// Of a file from its beginning to its end. The buffer is small enough to stay in a core's own cache.
  init(of file: FileDescriptor) throws(Errno) {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 128 << 10, alignment: 4096)
    defer { buffer.deallocate() }
    var checksum = RunningChecksum()
    while true {
      let count = try SystemCalls.pread(file, into: buffer, at: checksum.size)
      checksum.add(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
      if count < buffer.count { break }
    }
    guard let entry = checksum.entry else { throw .noMemory }
    self = entry
  }
}

// MARK: - At a dump

extension ImageDirectory {
  /// What `inventory.img` says of the files that were written, in the order of their names.
  public var checksums: [ImageChecksumEntry] {
    noted.all.sorted { $0.key < $1.key }.map { name, entry in
      var checksum = ImageChecksumEntry()
      checksum.name = name
      checksum.size = UInt64(entry.size)
      checksum.xxh3 = entry.hash
      return checksum
    }
  }

  /// Reads the memory images again, which were not written by this process, and notes their checksums.
  public func noteMemory() throws(ImageError) {
    for name in memoryImages {
      let file = try openOwned(name)
      do {
        noted.note(name, try Checksums.Entry(of: file.value))
      } catch {
        throw ImageError(file: name, .system(call: "read", error))
      }
    }
  }

  private var memoryImages: [String] {
    SystemCalls.names(descriptor).filter { $0.hasPrefix("pages-") && $0.hasSuffix(".img") }.sorted()
  }
}

extension ImageBuffer {
  /// Ends an inventory, whose last field is `own_xxh3`, with the checksum of all that is before it.
  mutating func sealInventory() {
    let bytes = unsafeBytes
    guard bytes.count > Self.sealBytes else { return }
    replaceLast(cxx_hash(bytes.baseAddress, bytes.count - Self.sealBytes))
  }

  /// A fixed64, at the end because its field's number is the highest.
  static var sealBytes: Int { 8 }
}

// MARK: - At a restore

extension ImageDirectory {
  /// Whether the inventory itself is what was written. One with checksums of others has its own.
  public func verify(_ inventory: InventoryEntry) throws(ImageError) {
    guard let expected = inventory.ownXxh3 else {
      if inventory.imageChecksum.isEmpty { return }
      throw ImageError(file: ImageFile.inventory.fileName, .wrongChecksum)
    }
    let name = ImageFile.inventory.fileName
    let file = try openOwned(name)
    do {
      let size = try SystemCalls.size(file.value)
      let whole = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 8)
      defer { whole.deallocate() }
      let count = try SystemCalls.pread(file.value, into: whole, at: 0)
      let hash = cxx_hash(whole.baseAddress, max(count - ImageBuffer.sealBytes, 0))
      if hash == expected { return }
    } catch {
      throw ImageError(file: name, .system(call: "read", error))
    }
    throw ImageError(file: name, .wrongChecksum)
  }

  /// Whether the inventory says something of a file, so that it has to be there.
  public func expects(_ file: ImageFile) -> Bool { noted[file.fileName] != nil }

  /// From here on every image that is opened to be read must be as the inventory has it, where that says something of it.
  public func expect(_ list: [ImageChecksumEntry]) throws(ImageError) {
    var expected: [String: Checksums.Entry] = [:]
    for (i, entry) in list.enumerated() {
      // It is only ever a file of this folder.
      guard !entry.name.isEmpty, !entry.name.contains("/"), entry.name != "..", entry.size <= UInt64(Int64.max) else {
        throw ImageError(
          file: ImageFile.inventory.fileName,
          .malformed(message: "image_checksum_entry", detail: "number \(i) has the name '\(entry.name)' and \(entry.size) bytes"))
      }
      expected[entry.name] = Checksums.Entry(size: Int(entry.size), hash: entry.xxh3)
    }
    noted.replace(expected)
  }

  /// Looks at every file that the inventory says something of, and tells what is wrong with each.
  /// - Parameter memory: whether the memory images are read too.
  public func damage(memory: Bool) -> [ImageError] {
    var errors: [ImageError] = []
    for (name, _) in noted.all.sorted(by: { $0.key < $1.key }) where memory || !name.hasPrefix("pages-") {
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
    guard let expected = noted[name] else { return }
    let size: Int
    let found: Checksums.Entry
    do {
      size = try SystemCalls.size(file)
      found = size == expected.size ? try Checksums.Entry(of: file) : Checksums.Entry(size: size, hash: 0)
    } catch {
      throw ImageError(file: name, .system(call: "read", error))
    }
    try Self.compare(name, found, expected)
  }

  /// The same, of a file that is in memory as a whole.
  func verify(_ name: String, _ bytes: UnsafeRawBufferPointer) throws(ImageError) {
    guard let expected = noted[name] else { return }
    try Self.compare(name, Checksums.Entry(of: bytes), expected)
  }

  private static func compare(_ name: String, _ found: Checksums.Entry, _ expected: Checksums.Entry)
    throws(ImageError)
  {
    if found.size != expected.size { throw ImageError(file: name, .wrongSize(found: found.size, expected: expected.size)) }
    if found != expected { throw ImageError(file: name, .wrongChecksum) }
  }
}
