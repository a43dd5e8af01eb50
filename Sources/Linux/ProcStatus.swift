/// `/proc/PID/status` (man 5 proc_pid_status): the lines that a dump needs.
///
/// As it was when it was read; whoever holds it looks at the same one.
public final class ProcStatus: @unchecked Sendable {
  public private(set) var state: UInt8 = 0
  public private(set) var tgid: Int32 = 0
  public private(set) var ppid: Int32 = 0
  public private(set) var tracerPID: Int32 = 0
  public private(set) var umask: UInt32 = 0
  /// real, effective, saved, file system
  public private(set) var uids: [UInt32] = []
  public private(set) var gids: [UInt32] = []
  public private(set) var groups: [UInt32] = []
  /// PIDs at every level, outermost first, as far as this process sees.
  public private(set) var nsTgid: [Int32] = []
  public private(set) var nsPid: [Int32] = []
  public private(set) var nsPgid: [Int32] = []
  public private(set) var nsSid: [Int32] = []
  public private(set) var threads = 0
  /// Descriptor numbers that the table has room for; those in use are below it.
  public private(set) var tableSize: Int32 = 0
  public private(set) var signalsBlocked: UInt64 = 0
  public private(set) var capInheritable: UInt64 = 0
  public private(set) var capPermitted: UInt64 = 0
  public private(set) var capEffective: UInt64 = 0
  public private(set) var capBounding: UInt64 = 0
  public private(set) var capAmbient: UInt64 = 0
  public private(set) var noNewPrivileges = false
  /// 0 none, 1 strict, 2 filter
  public private(set) var seccompMode: UInt32 = 0
  public private(set) var seccompFilters = 0
  public private(set) var thpEnabled = true
  /// Of memory that is there (VmRSS), in KiB; 0 without memory.
  public private(set) var residentKB: UInt64 = 0
  /// Of locked memory (mlock(2)).
  public private(set) var lockedKB: UInt64 = 0

  public init(_ text: UnsafeRawBufferPointer) {
    var c = ByteCursor(text)
    while !c.atEnd {
      let key = c.upTo(UInt8(ascii: ":"))
      c.skipBlanks()
      var v = ByteCursor(c.line())
      // Keys are told apart by their length and a few letters: this runs once for every task.
      switch key.count {
      case 3 where key.matches("Uid"): uids = v.unsignedList()
      case 3 where key.matches("Gid"): gids = v.unsignedList()
      case 4 where key.matches("Tgid"): tgid = Int32(truncatingIfNeeded: v.decimal())
      case 4 where key.matches("PPid"): ppid = Int32(truncatingIfNeeded: v.decimal())
      case 5 where key.matches("State"): state = v.peek ?? 0
      case 5 where key.matches("Umask"): umask = UInt32(truncatingIfNeeded: v.octal())
      case 5 where key.matches("NSpid"): nsPid = v.signedList()
      case 5 where key.matches("NSsid"): nsSid = v.signedList()
      case 5 where key.matches("VmRSS"): residentKB = v.unsigned()
      case 5 where key.matches("VmLck"): lockedKB = v.unsigned()
      case 6 where key.matches("FDSize"): tableSize = Int32(truncatingIfNeeded: v.decimal())
      case 6 where key.matches("Groups"): groups = v.unsignedList()
      case 6 where key.matches("NStgid"): nsTgid = v.signedList()
      case 6 where key.matches("NSpgid"): nsPgid = v.signedList()
      case 6 where key.matches("SigBlk"): signalsBlocked = v.hex()
      case 6 where key.matches("CapInh"): capInheritable = v.hex()
      case 6 where key.matches("CapPrm"): capPermitted = v.hex()
      case 6 where key.matches("CapEff"): capEffective = v.hex()
      case 6 where key.matches("CapBnd"): capBounding = v.hex()
      case 6 where key.matches("CapAmb"): capAmbient = v.hex()
      case 7 where key.matches("Threads"): threads = Int(truncatingIfNeeded: v.decimal())
      case 7 where key.matches("Seccomp"): seccompMode = UInt32(truncatingIfNeeded: v.decimal())
      case 9 where key.matches("TracerPid"): tracerPID = Int32(truncatingIfNeeded: v.decimal())
      case 10 where key.matches("NoNewPrivs"): noNewPrivileges = v.decimal() != 0
      case 11 where key.matches("THP_enabled"): thpEnabled = v.decimal() != 0
      case 15 where key.matches("Seccomp_filters"): seccompFilters = Int(truncatingIfNeeded: v.decimal())
      default: break
      }
    }
  }
}

extension ProcStatus {
  /// Lists that are the same as another's, as relatives' often are, are held in memory once.
  public func hold(listsOf other: ProcStatus) {
    if uids == other.uids { uids = other.uids }
    if gids == other.gids { gids = other.gids }
    if groups == other.groups { groups = other.groups }
    if nsTgid == other.nsTgid { nsTgid = other.nsTgid }
    if nsPid == nsTgid { nsPid = nsTgid }
    if nsPgid == other.nsPgid { nsPgid = other.nsPgid }
    if nsSid == other.nsSid { nsSid = other.nsSid }
  }
}

extension UnsafeRawBufferPointer {
  func matches(_ text: StaticString) -> Bool {
    count == text.utf8CodeUnitCount && ByteCursor(self).startsWith(text)
  }
}

extension ByteCursor {
  mutating func unsignedList() -> [UInt32] {
    var list: [UInt32] = []
    skipBlanks()
    while let c = peek, c >= 0x30, c <= 0x39 {
      list.append(UInt32(truncatingIfNeeded: unsigned()))
      skipBlanks()
    }
    return list
  }

  mutating func signedList() -> [Int32] { unsignedList().map { Int32(bitPattern: $0) } }
}
