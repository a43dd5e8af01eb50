import SystemPackage

/// Reads the mappings of a process that may have so many that it takes two: this thread reads, and the companion, if it has time, parses what
/// has been read.
///
/// Of very many not smaps is read but `maps`, with the flags from an iterator (``MappingFlags``).
public final class ManyMappings {
  private let pid: Int32
  private let folder: ProcFolder
  private let buffer: ReadBuffer
  private let companion: Companion?
  /// What the companion does while it has nothing to parse, with what is known by then, step by step; `false` says that there is nothing
  /// to do yet.
  private let meanwhile: ([Mapping]) -> Bool

  /// Below so many bytes of smaps, some hundred mappings, the companion takes longer to begin than it spares, and so does the iterator.
  private static let longText = 256 << 10

  public init(
    of pid: Int32, in folder: ProcFolder, _ buffer: ReadBuffer, with companion: Companion?, meanwhile: @escaping ([Mapping]) -> Bool
  ) {
    self.pid = pid
    self.folder = folder
    self.buffer = buffer
    self.companion = companion
    self.meanwhile = meanwhile
  }

  public func read() throws(Failure) -> [Mapping] {
    switch try read(.smaps(mayBeMany: true)) {
    case .mappings(let list): return list
    case .flags(let flags):
      if case .mappings(let list) = try read(.maps(flags)) { return list }
    case .nothing: break
    }
    // The iterator went through other mappings than these.
    guard case .mappings(let list) = try read(.smaps(mayBeMany: false)) else { return [] }
    return list
  }

  private enum Source {
    case smaps(mayBeMany: Bool)
    case maps(MappingFlags)

    var name: String { if case .smaps = self { "smaps" } else { "maps" } }
    var usualRecord: Int { if case .smaps = self { Mapping.usualRecord } else { 200 } }
    var mayBeMany: Bool { if case .smaps(true) = self { true } else { false } }
    var flags: MappingFlags? { if case .maps(let flags) = self { flags } else { nil } }
  }

  private enum Found {
    case mappings([Mapping])
    /// There are so many that the rest is read elsewhere.
    case flags(MappingFlags)
    case nothing
  }

  private func read(_ source: Source) throws(Failure) -> Found {
    let file = try about("opening \(source.name)") { () throws(Errno) in try folder.open(source.name) }
    let parsed = Parsed(source.flags)
    var (flags, relay): (MappingFlags?, Relay?) = (nil, nil)
    // The rest of a long text is read for sure.
    var (length, isLong) = (0, false)
    do throws(Errno) {
      try buffer.readLines(file.rawValue, usualRecord: source.usualRecord) { text in
        length += text.count
        if !isLong, length > Self.longText || source.flags != nil {
          isLong = true
          // The last one may not have been read to its end.
          if source.mayBeMany { flags = MappingFlags(of: pid, agreeingWith: parsed.list.dropLast()) }
          if flags == nil, let companion, companion.hire() { relay = begin(parsed, companion) }
        }
        if flags != nil { return false }
        if let relay { relay.send(text) } else { parsed.parse(text) }
        return true
      }
    } catch {
      relay?.end()
      companion?.settle()
      throw Failure("reading \(source.name)", error)
    }
    relay?.end()
    try companion?.wait()
    if let flags { return .flags(flags) }
    return parsed.hasStrayed ? .nothing : .mappings(parsed.list)
  }

  private func begin(_ parsed: Parsed, _ companion: Companion) -> Relay {
    let relay = Relay()
    companion.start { [meanwhile] in relay.receive(meanwhile: { meanwhile(parsed.list) }) { parsed.parse($0) } }
    return relay
  }

  /// What has been parsed, by one thread or the other.
  private final class Parsed {
    private(set) var list: [Mapping] = []
    /// A mapping is not among those whose flags are known.
    private(set) var hasStrayed = false
    private let flags: MappingFlags?

    init(_ flags: MappingFlags?) { self.flags = flags }

    func parse(_ text: UnsafeRawBufferPointer) {
      var next = list.count
      Mapping.parse(text, into: &list)
      guard let flags else { return }
      while next < list.count {
        if let told = flags.flags(of: list[next], at: next) { list[next].flags = told } else { hasStrayed = true }
        next += 1
      }
    }
  }
}
