import SystemPackage

/// Reads the mappings of a process that may have so many that it takes two: this thread reads, and the companion parses what has been read.
///
/// Of very many not smaps is read but `maps`, with the flags from an iterator (``MappingFlags``).
public final class ManyMappings {
  private let pid: Int32
  private let folder: ProcFolder
  private let buffer: ReadBuffer
  private let companion: Companion
  /// What the companion does while it has nothing to parse, with what is known by then, step by step; `false` says that there is nothing
  /// to do yet.
  private let meanwhile: ([Mapping]) -> Bool

  /// Below so many bytes of smaps, some hundred mappings, the companion takes longer to begin than it spares, and so does the iterator.
  private static let longText = 256 << 10

  public init(
    of pid: Int32, in folder: ProcFolder, _ buffer: ReadBuffer, with companion: Companion, meanwhile: @escaping ([Mapping]) -> Bool
  ) {
    self.pid = pid
    self.folder = folder
    self.buffer = buffer
    self.companion = companion
    self.meanwhile = meanwhile
  }

  public func read() throws(Failure) -> [Mapping] {
    if let list = try read("smaps", usualRecord: Mapping.usualRecord) { return list }
    if let list = try read("maps", usualRecord: 200) { return list }
    // The iterator went through other mappings than these.
    flags = nil
    return try read("smaps", usualRecord: Mapping.usualRecord) ?? []
  }

  /// The flags that an iterator told, once it has been asked.
  private var flags: MappingFlags??

  /// What both threads see, one after the other.
  private final class Parsed {
    var list: [Mapping] = []
    var hasStrayed = false

    func parse(_ text: UnsafeRawBufferPointer, _ flags: MappingFlags?) {
      var next = list.count
      Mapping.parse(text, into: &list)
      guard let flags else { return }
      while next < list.count {
        if let told = flags.flags(of: list[next], at: next) { list[next].flags = told } else { hasStrayed = true }
        next += 1
      }
    }
  }

  /// `nil`: it has to be read in another way.
  private func read(_ name: String, usualRecord: Int) throws(Failure) -> [Mapping]? {
    let file = try about("opening \(name)") { () throws(Errno) in try folder.open(name) }
    let parsed = Parsed()
    let told = flags ?? nil
    var (relay, isOther): (Relay?, Bool) = (nil, false)
    var length = 0
    var isLong = false
    do throws(Errno) {
      try buffer.readLines(file.rawValue, usualRecord: usualRecord) { text in
        length += text.count
        if length > Self.longText || told != nil, !isLong {
          isLong = true
          if flags == nil {
            // The last one may not have been read to its end.
            flags = .some(MappingFlags(of: pid, agreeingWith: parsed.list.dropLast()))
            isOther = flags ?? nil != nil
          }
          if !isOther, companion.hire() { relay = begin(parsed, told) }
        }
        if isOther { return false }
        if let relay { relay.send(text) } else { parsed.parse(text, told) }
        return true
      }
    } catch {
      relay?.end()
      companion.settle()
      throw Failure("reading \(name)", error)
    }
    relay?.end()
    try companion.wait()
    return isOther || parsed.hasStrayed ? nil : parsed.list
  }

  private func begin(_ parsed: Parsed, _ flags: MappingFlags?) -> Relay {
    let relay = Relay()
    companion.start { [meanwhile] in relay.receive(meanwhile: { meanwhile(parsed.list) }) { parsed.parse($0, flags) } }
    return relay
  }
}
