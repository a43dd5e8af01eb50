import Foundation
import SystemPackage
import Testing

@testable import Checkpoint

struct ImageDirectoryTests {
  @Test("Files are named as the format has it")
  func names() {
    let files: [ImageFile] = [
      .inventory, .core(42), .pagemapShmem(3), .ghostFile(0xab), .tcpStream(0x1f2e), .tmpfs(7), .ipcVar(5),
      .statsDump,
    ]
    #expect(
      files.map(\.fileName) == [
        "inventory.img", "core-42.img", "pagemap-shmem-3.img", "ghost-file-ab.img", "tcp-stream-1f2e.img",
        "tmpfs-7.tar.gz.img", "ipcns-var-5.img", "stats-dump",
      ])
  }

  @Test("Nobody else can read the images")
  func modes() throws {
    let temporary = try TemporaryDirectory()
    let folder = temporary.path + "/images"
    let images = try ImageDirectory(creating: FilePath(folder))
    var buffer = ImageBuffer()
    try images.write(FsEntry(), to: .fs(1), using: &buffer)
    try images.create(.pages(1)).close()
    #expect(try mode(folder) == 0o700)
    #expect(try mode(folder + "/fs-1.img") == 0o600)
    #expect(try mode(folder + "/pages-1.img") == 0o600)
  }

  @Test("The checksums of more files than are held in memory are all in the inventory, and nothing else is in the folder")
  func manyChecksums() throws {
    let temporary = try TemporaryDirectory()
    let images = try temporary.images()
    let count = UInt32(2 * WrittenChecksums.most + 7)
    for i in 1...count { try images.note(.fs(i), Checksum(size: Int(i), hash: UInt64(i) << 32)) }
    #expect(images.contains(.inventory) == false)
    var buffer = ImageBuffer()
    var inventory = InventoryEntry()
    inventory.fdinfoPerId = true
    try images.writeInventory(inventory, sync: false, using: &buffer)
    let read = try ImageDirectory(opening: FilePath(temporary.path))
    let found = try read.read(InventoryEntry.self, from: .inventory)
    let pieces = try read.readInventory(expecting: true)
    #expect(found.fdinfoPerId == true && pieces.fdinfoPerId == true)
    #expect(pieces.imageChecksum.isEmpty && pieces.ownXxh3 == found.ownXxh3)
    #expect(!(1...count).contains { read.expected["fs-\($0).img"]?.size != Int($0) })
    let sizes = Dictionary(found.imageChecksum.map { ($0.name, $0.size) }, uniquingKeysWith: +)
    #expect(found.imageChecksum.count == Int(count))
    #expect(!(1...count).contains { sizes["fs-\($0).img"] != UInt64($0) })
    #expect(!found.imageChecksum.contains { $0.xxh3 != UInt64($0.size) << 32 })
    #expect(Set(SystemCalls.names(read.descriptor)) == [".", "..", "inventory.img"])
  }

  @Test("Mappings are the same whether they are read at once, one by one, or by two readers")
  func mappings() throws {
    let temporary = try TemporaryDirectory()
    let images = try temporary.images()
    var written = MmEntry()
    written.mmSavedAuxv = [1, 2, 3]
    written.vmas = (0..<5000).map { i in
      var vma = VmaEntry()
      (vma.start, vma.end) = (UInt64(i) << 20, UInt64(i) << 20 + 4096)
      if i % 7 == 0 { vma.anonName = Array("name \(i)".utf8) }
      return vma
    }
    var buffer = ImageBuffer()
    written.thpDisabled = true
    try images.write(mappings: written, to: .mm(1), using: &buffer)
    #expect(try images.read(MmEntry.self, from: .mm(1)) == written)
    try images.write(written, to: .mm(2), using: &buffer)
    var other = try ImageReader(.mm(2), in: images)
    #expect(try other.mappings() == written)
    var whole = try ImageReader(.mm(1), in: images)
    #expect(try whole.mappings() == written)
    #expect(whole.isAtEnd && whole.entry == 1)
    // Also in the middle of a message, before the first and behind the last
    for middle in [0, 8, 9, whole.size / 2, whole.size / 2 + 1, whole.size - 1, whole.size, 1 << 40] {
      var first = try ImageReader(.mm(1), in: images)
      var second = try ImageReader(.mm(1), openedAs: first.fileDescriptor)
      let (low, high) = (try first.mappings(beginningAt: 0..<middle), try second.mappings(beginningAt: middle..<Int.max))
      #expect(low.vmas + high.vmas == written.vmas)
      #expect(low.mmSavedAuxv == written.mmSavedAuxv && high.mmSavedAuxv == written.mmSavedAuxv)
    }
  }

  @Test("What is wrong with one of many mappings is told")
  func damagedMappings() throws {
    let temporary = try TemporaryDirectory()
    let images = try temporary.images()
    var written = MmEntry()
    written.vmas = (0..<5000).map { _ in VmaEntry() }
    var buffer = ImageBuffer()
    try images.write(written, to: .mm(1), using: &buffer)
    let path = temporary.path + "/mm-1.img"
    var bytes = Array(try Data(contentsOf: URL(fileURLWithPath: path)))
    // The first mapping's first field, a varint, becomes one of a group.
    let first = try #require(bytes.indices.first { bytes[$0] == 14 << 3 | 2 && $0 > 20 })
    bytes[first + 2] = bytes[first + 2] & ~7 | 3
    try Data(bytes).write(to: URL(fileURLWithPath: path))
    #expect(throws: ImageError.self) { try images.read(MmEntry.self, from: .mm(1)) }
    let error = #expect(throws: ImageError.self) {
      var reader = try ImageReader(.mm(1), in: images)
      _ = try reader.mappings()
    }
    #expect("\(String(describing: error))".contains("mm-1.img"))
  }

  @Test("Files are compared with their checksums, small ones, large ones, and those that others wrote")
  func checksums() throws {
    let temporary = try TemporaryDirectory()
    let written = try temporary.images()
    var buffer = ImageBuffer()
    try written.write(FsEntry(), to: .fs(1), using: &buffer)
    var large = try ImageWriter(.ghostFile(1), in: written)
    for i in 0..<40 { try large.append(raw: [UInt8](repeating: UInt8(i), count: 10_000)) }
    try large.finish()
    let pages = try written.create(.pages(1))
    try pages.writeAll([UInt8](repeating: 7, count: 300_000))
    try pages.close()
    let read = try ImageDirectory(opening: FilePath(temporary.path))
    func checksums() throws -> [ImageChecksumEntry] {
      try written.writeInventory(InventoryEntry(), sync: false, using: &buffer)
      _ = try read.readInventory(expecting: true)
      return try read.read(InventoryEntry.self, from: .inventory).imageChecksum
    }
    #expect(Set(try checksums().map(\.name)) == ["fs-1.img", "ghost-file-1.img"])
    try written.noteMemory()
    let list = try checksums()
    #expect(Set(list.map(\.name)) == ["fs-1.img", "ghost-file-1.img", "pages-1.img"])
    #expect(Set(list.map(\.size)).isSuperset(of: [400_008, 300_000]))
    func damage() throws -> [ImageError] { try read.damage(memory: true) }
    #expect(try damage().isEmpty)
    for file in [ImageFile.fs(1), .ghostFile(1), .pages(1)] {
      let whole = try temporary.contents(file)
      var spoiled = whole
      spoiled[whole.count - 1] ^= 4
      try temporary.write(spoiled, to: file)
      #expect(try damage() == [ImageError(file: file.fileName, .wrongChecksum)])
      if file != .pages(1) {
        #expect(throws: ImageError(file: file.fileName, .wrongChecksum)) { _ = try ImageReader(file, in: read).size }
      }
      try temporary.write(whole.dropLast(), to: file)
      #expect(
        try damage() == [
          ImageError(file: file.fileName, .wrongSize(found: whole.count - 1, expected: whole.count))
        ])
      try temporary.write(whole, to: file)
    }
    var elsewhere = ImageChecksumEntry()
    elsewhere.name = "../passwd"
    #expect(throws: ImageError.self) { try read.expected.add(elsewhere) }
    // Who has been compared is forgotten, and nobody else.
    #expect(read.expects(.fs(1)) == true)
    _ = try read.readInventory(expecting: true)
    _ = try read.read(FsEntry.self, from: .fs(1))
    read.forgetCompared()
    #expect(!read.expects(.fs(1)) && read.expects(.ghostFile(1)) && read.expects(.pages(1)))
  }

  @Test("An image replaces one that was there, and does not write into it")
  func replaces() throws {
    let temporary = try TemporaryDirectory()
    let images = try temporary.images()
    let old = temporary.path + "/elsewhere"
    try Data("precious".utf8).write(to: URL(fileURLWithPath: old))
    try #require(link(old, temporary.path + "/fs-1.img") == 0)
    var buffer = ImageBuffer()
    try images.write(FsEntry(), to: .fs(1), using: &buffer)
    #expect(try String(contentsOfFile: old, encoding: .utf8) == "precious")
    let new = try images.read(FsEntry.self, from: .fs(1))
    #expect(new == FsEntry())
  }

  @Test("The inventory comes last, and a new dump into the same folder takes it away first")
  func inventory() throws {
    let temporary = try TemporaryDirectory()
    let images = try temporary.images()
    var inventory = InventoryEntry()
    inventory.imgVersion = 2
    var buffer = ImageBuffer()
    try images.writeInventory(inventory, sync: true, using: &buffer)
    let (there, read) = (images.contains(.inventory), try images.read(InventoryEntry.self, from: .inventory))
    #expect(there)
    // With its own checksum, and who wrote it.
    (inventory.ownXxh3, inventory.toolVersion) = (read.ownXxh3, read.toolVersion)
    #expect(read == inventory && read.ownXxh3 != nil && read.toolVersion == ToolVersion.name)
    #expect(try FileManager.default.contentsOfDirectory(atPath: temporary.path) == ["inventory.img"])

    let again = try temporary.images()
    let stillThere = again.contains(.inventory)
    #expect(!stillThere)
  }

  @Test("Entries, raw bytes and what is written to the descriptor come back in order, whatever their size")
  func mixedContent() throws {
    let temporary = try TemporaryDirectory()
    let images = try temporary.images()
    let sizes = [0, 1, 4095, 70_000, 300_000, 3]
    var writer = try ImageWriter(.pipesData, in: images)
    for size in sizes {
      var entry = PipeDataEntry()
      entry.bytes = UInt32(size)
      try writer.append(entry)
      let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ size) }
      if size == 4095 {
        try writer.appendRaw { file throws(ImageError) in
          #expect(bytes.withUnsafeBytes { Glibc.write(file.rawValue, $0.baseAddress, $0.count) } == size)
        }
      } else {
        try writer.append(raw: bytes)
      }
    }
    let buffer = try writer.finish()

    var reader = try ImageReader(.pipesData, in: images)
    for size in sizes {
      let entry = try #require(try reader.next(PipeDataEntry.self))
      #expect(Int(entry.bytes) == size)
      if size == 70_000 {
        let start = try reader.skip(size)
        let offset = reader.offset
        #expect(start == offset - size)
      } else {
        let bytes = try reader.raw(size)
        #expect(bytes == (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ size) })
      }
    }
    let (end, count) = (try reader.next(PipeDataEntry.self), reader.entry)
    #expect(end == nil)
    #expect(count == sizes.count)

    let next = try ImageWriter(.pstree, in: images, buffer: buffer)
    try next.finish()
    let tree = try images.readAll(PstreeEntry.self, from: .pstree)
    #expect(tree.isEmpty)
  }

  @Test("What is not there is said by name")
  func missing() throws {
    let temporary = try TemporaryDirectory()
    let images = try temporary.images()
    #expect(throws: ImageError(file: "core-7.img", .system(call: "open", .noSuchFileOrDirectory))) {
      try images.read(CoreEntry.self, from: .core(7))
    }
    var buffer = ImageBuffer()
    try images.write([CoreEntry](), to: .core(7), using: &buffer)
    #expect(throws: ImageError(file: "core-7.img", .missing(message: "CoreEntry"))) {
      try images.read(CoreEntry.self, from: .core(7))
    }
    #expect(throws: ImageError.self) { _ = try ImageDirectory(opening: FilePath(temporary.path + "/no")) }
  }

  private func mode(_ path: String) throws -> Int {
    let attributes = try FileManager.default.attributesOfItem(atPath: path)
    return try #require(attributes[.posixPermissions] as? Int)
  }
}
