import Testing

@testable import Checkpoint

/// The encoding of a message.
func encoded(_ message: some ImageMessage) -> [UInt8] {
  var buffer = ImageBuffer()
  message.encode(into: &buffer)
  return buffer.bytes.withUnsafeBytes { Array($0) }
}

func decoded<Message: ImageMessage>(_ type: Message.Type, _ bytes: [UInt8]) throws(ImageError) -> Message {
  try Message(decoding: bytes.span.bytes)
}

struct MessageTests {
  @Test("A message with every field set survives, to the byte")
  func everyField() throws {
    func check<Message: CMessage>(_ type: Message.Type) throws {
      var sample = WireSample()
      let bytes = sample.bytes(of: type)
      let message = try decoded(type, bytes)
      #expect(encoded(message) == bytes, "\(type)")
      #expect(try decoded(type, encoded(message)) == message, "\(type)")
    }
    for type in everyMessage { try check(type) }
    #expect(everyMessage.count > 100)
  }

  @Test("A message with its required fields only survives, and says nothing about the others")
  func requiredFields() throws {
    func check<Message: CMessage>(_ type: Message.Type) throws {
      var sample = WireSample(optional: false, repeated: 0)
      let bytes = sample.bytes(of: type)
      #expect(encoded(try decoded(type, bytes)) == bytes, "\(type)")
    }
    for type in everyMessage { try check(type) }
  }

  @Test("A new message is complete: it can be encoded, and decoded again")
  func initialValues() throws {
    func check<Message: CMessage>(_ type: Message.Type) throws {
      #expect(try decoded(type, encoded(Message())) == Message(), "\(type)")
    }
    for type in everyMessage { try check(type) }
    #expect(UserDescT().readExecOnly)
  }

  @Test("Fields of readers to come are skipped")
  func unknownFields() throws {
    let known = encoded(PagemapHead())
    let unknown = varint(999 << 3) + [1] + varint(5000 << 3 | 2) + [3, 1, 2, 3]
    #expect(try decoded(PagemapHead.self, known + unknown) == PagemapHead())
  }

  @Test("Enum values of writers to come are kept, and print as numbers")
  func unknownEnumValues() throws {
    var entry = FdinfoEntry()
    entry.type = FdTypes(rawValue: 4711)
    #expect(try decoded(FdinfoEntry.self, encoded(entry)) == entry)
    #expect("\(entry.type) \(FdTypes.eventpoll)" == "4711 EVENTPOLL")
  }

  @Test("Names that are not UTF-8 survive where the kernel allows them")
  func notUTF8() throws {
    var file = RegFileEntry()
    file.name = [0x2f, 0xff, 0xfe]
    #expect(try decoded(RegFileEntry.self, encoded(file)).name == file.name)
  }

  @Test("Of many alternatives any number may be there")
  func alternatives() throws {
    var file = FileEntry()
    file.reg = RegFileEntry()
    file.reg?.name = Array("/etc/passwd".utf8)
    let one = file
    file.tfd = TimerfdEntry()
    file.efd = EventfdFileEntry()
    file.efd?.counter = 7
    #expect(file != one && one.efd == nil)
    let again = try decoded(FileEntry.self, encoded(file))
    #expect(again == file)
    #expect(again.reg == one.reg && again.efd?.counter == 7 && again.tfd == TimerfdEntry() && again.pipe == nil)
    var other = again
    other.efd?.counter = 8
    #expect(other != again && again.efd?.counter == 7)
    (file.reg, file.efd, file.tfd) = (nil, nil, nil)
    #expect(file == FileEntry())
  }

  @Test("A large message survives")
  func large() throws {
    var mm = MmEntry()
    mm.vmas = (0..<65_530).map {
      var vma = VmaEntry()
      vma.start = 0x7f00_0000_0000 + UInt64($0) * 8192
      vma.end = vma.start + 4096
      vma.fd = -1
      return vma
    }
    #expect(try decoded(MmEntry.self, encoded(mm)) == mm)
  }
}
