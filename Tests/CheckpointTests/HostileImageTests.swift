import Foundation
import SystemPackage
import Testing

@testable import Checkpoint

/// Whatever the bytes are: an error that says where and what, or a value; never a crash, nor memory without
/// bound.
struct HostileImageTests {
  @Test("A message cut short at any byte")
  func cutShort() throws {
    func check<Message: CMessage>(_ type: Message.Type) throws {
      var sample = WireSample(repeated: 1)
      let bytes = sample.bytes(of: type)
      for length in 0..<bytes.count {
        do throws(ImageError) { _ = try decoded(type, Array(bytes[..<length])) } catch {
          #expect(!error.description.contains("more memory"), "\(type) \(length): \(error)")
        }
      }
    }
    for type in everyMessage { try check(type) }
  }

  @Test("A message with any bit flipped")
  func bitFlips() throws {
    func check<Message: CMessage>(_ type: Message.Type) throws {
      var sample = WireSample(repeated: 1)
      var bytes = sample.bytes(of: type)
      for bit in 0..<min(8 * bytes.count, 8000) {
        bytes[bit / 8] ^= 1 << (bit % 8)
        if let message = try? decoded(type, bytes) { _ = encoded(message) }
        bytes[bit / 8] ^= 1 << (bit % 8)
      }
    }
    for type in everyMessage { try check(type) }
  }

  @Test("An image of CRIU's, cut short at any byte or with any bit flipped", arguments: samples.prefix(1))
  func images(sample: String) throws {
    let source = try TemporaryDirectory()
    let destination = try TemporaryDirectory()
    let sourceImages = try source.images()
    let destinationImages = try destination.images()
    for file in try CheckpointTests.images(of: sample) where file.magic.first != nil {
      let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: sample + "/" + file.fileName)))
      func attempt(_ bytes: [UInt8]) throws -> ImageError? {
        try source.write(bytes, to: file)
        do {
          _ = try copy(file, from: sourceImages, to: destinationImages)
          return nil
        } catch let error as ImageError {
          return error
        }
      }
      for length in 0..<min(bytes.count, 100) {
        let error = try attempt(Array(bytes[..<length]))
        #expect(error?.file == error.map { _ in file.fileName })
        if length < 4 { #expect(error != nil) }
      }
      for bit in 0..<min(8 * bytes.count, 200) {
        var flipped = bytes
        flipped[bit / 8] ^= 1 << (bit % 8)
        let error = try attempt(flipped)
        if bit < 32 { #expect(error?.problem.isWrongMagic == true) }
      }
    }
  }

  @Test("A length that goes past the end of the file")
  func lengthPastEnd() throws {
    let error = try failure(.files, [0xff, 0xff, 0xff, 0x03, 1, 2, 3])
    #expect(error == ImageError(file: "files.img", entry: 0, .cutShort(end: 15, needed: 12 + 0x03ff_ffff)))
  }

  @Test("A length that no entry has, in a file that is as long")
  func lengthTooLong() throws {
    let temporary = try TemporaryDirectory()
    let images = try temporary.images()
    try temporary.write(header(.files) + [0xff, 0xff, 0xff, 0x0f], to: .files)
    try #require(truncate(temporary.path + "/files.img", 1 << 30) == 0)
    #expect(throws: ImageError.self) { try images.readAll(FileEntry.self, from: .files) }
  }

  @Test("A message that holds itself a hundred thousand times")
  func nesting() throws {
    var inner: [UInt8] = []
    for _ in 0..<100_000 {
      // The fields go in from the back, so that this takes linear time.
      let length = varint(UInt64(inner.count))
      inner += (length.reversed() + [2 << 3 | 2])
    }
    inner.reverse()
    let message = [2 << 3 | 2] + varint(UInt64(inner.count)) + inner
    let error = #expect(throws: ImageError.self) { try decoded(CgControllerEntry.self, message) }
    #expect(error?.description.contains("nested too deep") == true, "\(error.debugDescription)")
  }

  @Test("Cgroups as deep as anyone has them")
  func realNesting() throws {
    let deep = (0..<60).reduce(CgroupDirEntry()) { child, _ in
      var parent = CgroupDirEntry()
      parent.children = [child]
      return parent
    }
    #expect(try decoded(CgroupDirEntry.self, encoded(deep)) == deep)
  }

  @Test("A million empty messages, more than fit the bound")
  func manyMessages() throws {
    let message = Array(repeatElement([2 << 3 | 2, 0] as [UInt8], count: 1_000_000).joined())
    let arena = ImageArena(most: 16 << 20)
    let error = #expect(throws: ImageError.self) {
      try CgroupEntry(decoding: message.span.bytes, in: arena)
    }
    #expect(error?.description.contains("memory") == true)
    #expect(try decoded(CgroupEntry.self, message).controllers.count == 1_000_000)
  }

  @Test("The error names the file, the entry, the field and the fault")
  func wording() throws {
    var good = FdinfoEntry()
    good.fd = 1
    let first = encoded(good)
    let second = Array(first.dropLast(2))
    let bytes = [UInt8(first.count), 0, 0, 0] + first + [UInt8(second.count), 0, 0, 0] + second
    let error = try failure(.fdinfo(7), bytes)
    #expect("\(error)" == "fdinfo-7.img: entry 1: not a fdinfo_entry: field fd: missing")

    var file = FileEntry()
    file.pipe = PipeEntry()
    var wire = encoded(file)
    wire[6] += 40
    let cut = try failure(.files, [UInt8(wire.count), 0, 0, 0] + wire)
    #expect(
      "\(cut)"
        == "files.img: entry 0: not a file_entry: field pipe: 58 bytes long, but there are 18 after byte 7")
  }

  @Test("A symbolic link is not followed, a pipe is not read")
  func notRegular() throws {
    let temporary = try TemporaryDirectory()
    let images = try temporary.images()
    try #require(symlink("/etc/passwd", temporary.path + "/files.img") == 0)
    try #require(mkfifo(temporary.path + "/pstree.img", 0o600) == 0)
    #expect(throws: ImageError(file: "files.img", .system(call: "open", .tooManySymbolicLinkLevels))) {
      try images.readAll(FileEntry.self, from: .files)
    }
    #expect(throws: ImageError.self) { try images.readAll(PstreeEntry.self, from: .pstree) }
  }

  private func header(_ file: ImageFile) -> [UInt8] {
    [file.magic.first, file.magic.second].compactMap { $0 }
      .flatMap { word in withUnsafeBytes(of: word.littleEndian) { Array($0) } }
  }

  /// What reading all entries of such an image ends with.
  private func failure(_ file: ImageFile, _ entries: [UInt8]) throws -> ImageError {
    let temporary = try TemporaryDirectory()
    let images = try temporary.images()
    try temporary.write(header(file) + entries, to: file)
    return try #require(
      #expect(throws: ImageError.self) {
        if file == .files { _ = try images.readAll(FileEntry.self, from: file) }
        _ = try images.readAll(FdinfoEntry.self, from: file)
      })
  }
}

extension ImageError.Problem {
  var isWrongMagic: Bool {
    if case .wrongMagic = self { true } else { false }
  }
}
