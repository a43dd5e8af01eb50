import SystemPackage

/// One mapping of `/proc/PID/smaps` (man 5 proc_pid_smaps).
public struct Mapping: Equatable, Sendable {
  public var start: UInt64
  public var end: UInt64
  /// PROT_READ 1, PROT_WRITE 2, PROT_EXEC 4
  public var protection: UInt32
  public var isShared: Bool
  /// Bytes into the file.
  public var offset: UInt64
  public var major: UInt32
  public var minor: UInt32
  public var inode: UInt64
  /// What the kernel prints as the name: a path with octal escapes for newlines, or "[heap]" and the like.
  public var name: [UInt8]
  public var flags: VMFlags = []
  public var kernelPageSizeKB: UInt64 = 4

  public var length: UInt64 { end - start }
  public var pages: Int { Int(length / 4096) }
  public var isFile: Bool { inode != 0 }
}

/// The two-letter flags of smaps' VmFlags line (fs/proc/task_mmu.c: show_smap_vma_flags).
public struct VMFlags: OptionSet, Hashable, Sendable {
  public let rawValue: UInt64
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  public static let growsDown = VMFlags(rawValue: 1 << 0)  // gd
  public static let locked = VMFlags(rawValue: 1 << 1)  // lo
  public static let lockOnFault = VMFlags(rawValue: 1 << 2)  // lf
  public static let sequential = VMFlags(rawValue: 1 << 3)  // sr
  public static let random = VMFlags(rawValue: 1 << 4)  // rr
  public static let dontCopy = VMFlags(rawValue: 1 << 5)  // dc
  public static let dontDump = VMFlags(rawValue: 1 << 6)  // dd
  public static let noReserve = VMFlags(rawValue: 1 << 7)  // nr
  public static let hugeTLB = VMFlags(rawValue: 1 << 8)  // ht
  public static let wipeOnFork = VMFlags(rawValue: 1 << 9)  // wf
  public static let hugePage = VMFlags(rawValue: 1 << 10)  // hg
  public static let noHugePage = VMFlags(rawValue: 1 << 11)  // nh
  public static let mergeable = VMFlags(rawValue: 1 << 12)  // mg
  public static let io = VMFlags(rawValue: 1 << 13)  // io
  public static let pfnMap = VMFlags(rawValue: 1 << 14)  // pf
  public static let userfaultMissing = VMFlags(rawValue: 1 << 15)  // um
  public static let userfaultWriteProtect = VMFlags(rawValue: 1 << 16)  // uw
  public static let userfaultMinor = VMFlags(rawValue: 1 << 17)  // ui
  public static let shadowStack = VMFlags(rawValue: 1 << 18)  // ss
  public static let sealed = VMFlags(rawValue: 1 << 19)  // sl
  public static let guardRegions = VMFlags(rawValue: 1 << 20)  // gu
  public static let mayWrite = VMFlags(rawValue: 1 << 21)  // mw
  public static let mayShare = VMFlags(rawValue: 1 << 22)  // ms
  public static let mixedMap = VMFlags(rawValue: 1 << 23)  // mm
  public static let accounted = VMFlags(rawValue: 1 << 24)  // ac
  public static let dropPages = VMFlags(rawValue: 1 << 25)  // dp
  public static let dontExpand = VMFlags(rawValue: 1 << 26)  // de

  static func named(_ a: UInt8, _ b: UInt8) -> VMFlags {
    switch (UInt16(a) << 8) | UInt16(b) {
    case 0x6764: .growsDown
    case 0x6c6f: .locked
    case 0x6c66: .lockOnFault
    case 0x7372: .sequential
    case 0x7272: .random
    case 0x6463: .dontCopy
    case 0x6464: .dontDump
    case 0x6e72: .noReserve
    case 0x6874: .hugeTLB
    case 0x7766: .wipeOnFork
    case 0x6867: .hugePage
    case 0x6e68: .noHugePage
    case 0x6d67: .mergeable
    case 0x696f: .io
    case 0x7066: .pfnMap
    case 0x756d: .userfaultMissing
    case 0x7577: .userfaultWriteProtect
    case 0x7569: .userfaultMinor
    case 0x7373: .shadowStack
    case 0x736c: .sealed
    case 0x6775: .guardRegions
    case 0x6d77: .mayWrite
    case 0x6d73: .mayShare
    case 0x6d6d: .mixedMap
    case 0x6163: .accounted
    case 0x6470: .dropPages
    case 0x6465: .dontExpand
    default: []
    }
  }
}

extension Mapping {
  /// All mappings of an smaps or maps text, in address order.
  public static func parse(_ text: UnsafeRawBufferPointer) -> [Mapping] {
    var list: [Mapping] = []
    parse(text, into: &list)
    return list
  }

  /// All mappings of an open smaps or maps file. It is taken page by page as the kernel hands it out: the text of many mappings is
  /// a hundred times what is kept of it.
  public static func readAll(_ fd: Int32, _ buffer: ReadBuffer) throws(Errno) -> [Mapping] {
    var list: [Mapping] = []
    try buffer.readLines(fd, usualRecord: usualRecord) {
      parse($0, into: &list)
      return true
    }
    return list
  }

  /// Bytes of a record of smaps.
  static let usualRecord = 900

  /// Appends the mappings of some whole lines, or what they say of the last one.
  static func parse(_ text: UnsafeRawBufferPointer, into list: inout [Mapping]) {
    var c = ByteCursor(text)
    var usual = PropertyPlaces()
    var places = PropertyPlaces()
    // Where the properties of the last mapping begin, if its own line is in this text.
    var start: Int?
    while let first = c.peek {
      // A mapping's own line begins with a lower-case hex digit, a property's with a capital.
      if (first >= 0x30 && first <= 0x39) || (first >= 0x61 && first <= 0x66) {
        list.append(Mapping(line: &c))
        start = c.position
        places = PropertyPlaces()
        if usual.areThere(c) {
          list[list.count - 1].readProperties(&c, usual)
        }
      } else if list.isEmpty {
        c.skipLine()
      } else {
        switch first {
        case UInt8(ascii: "V"):
          if let start {
            places.flags = c.position - start
            usual = places
          }
          list[list.count - 1].readProperty(&c)
        case UInt8(ascii: "K"):
          // KSM comes behind it.
          if let start, places.pageSize == 0 { places.pageSize = c.position - start }
          list[list.count - 1].readProperty(&c)
        default: c.skipLine()
        }
      }
    }
  }

  /// How far behind a mapping's own line the properties are that are read: as far as they were with the one before, for the kernel fills
  /// up its numbers with blanks. There are two dozen lines between.
  private struct PropertyPlaces {
    var pageSize = 0
    var flags = 0

    func areThere(_ c: ByteCursor) -> Bool {
      guard pageSize > 0, flags > pageSize else { return false }
      return c.startsLine("KernelPageSize:", ahead: pageSize) && c.startsLine("VmFlags:", ahead: flags)
    }
  }

  private mutating func readProperties(_ c: inout ByteCursor, _ places: PropertyPlaces) {
    let start = c.position
    c.skip(places.pageSize)
    readProperty(&c)
    c.skip(start + places.flags - c.position)
    readProperty(&c)
  }

  private init(line c: inout ByteCursor) {
    start = c.hex()
    c.skip()
    end = c.hex()
    c.skip()
    var prot: UInt32 = 0
    if c.peek == UInt8(ascii: "r") { prot |= 1 }
    c.skip()
    if c.peek == UInt8(ascii: "w") { prot |= 2 }
    c.skip()
    if c.peek == UInt8(ascii: "x") { prot |= 4 }
    c.skip()
    protection = prot
    isShared = c.peek == UInt8(ascii: "s")
    c.skip(2)
    offset = c.hex()
    c.skip()
    major = UInt32(truncatingIfNeeded: c.hex())
    c.skip()
    minor = UInt32(truncatingIfNeeded: c.hex())
    c.skip()
    inode = c.unsigned()
    c.skipBlanks()
    let rest = c.line()
    name = rest.isEmpty ? [] : [UInt8](rest)
  }

  private mutating func readProperty(_ c: inout ByteCursor) {
    if c.startsWith("VmFlags:") {
      c.skip(8)
      while let a = c.peek, a != 0x0a {
        if a == 0x20 {
          c.skip()
          continue
        }
        c.skip()
        if let b = c.peek, b != 0x0a {
          flags.formUnion(.named(a, b))
          c.skip()
        }
      }
      c.skip()
    } else if c.startsWith("KernelPageSize:") {
      c.skip(15)
      c.skipBlanks()
      kernelPageSizeKB = c.unsigned()
      c.skipLine()
    } else {
      c.skipLine()
    }
  }
}
