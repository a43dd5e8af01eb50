/// `/proc/PID/status` (man 5 proc_pid_status): the lines that a dump needs.
public struct ProcStatus: Equatable, Sendable {
  public var state: UInt8 = 0
  public var tgid: Int32 = 0
  public var ppid: Int32 = 0
  public var tracerPID: Int32 = 0
  public var umask: UInt32 = 0
  /// real, effective, saved, file system
  public var uids: [UInt32] = []
  public var gids: [UInt32] = []
  public var groups: [UInt32] = []
  /// PIDs at every level, outermost first, as far as this process sees.
  public var nsTgid: [Int32] = []
  public var nsPid: [Int32] = []
  public var nsPgid: [Int32] = []
  public var nsSid: [Int32] = []
  public var threads = 0
  /// Descriptor numbers that the table has room for; those in use are below it.
  public var tableSize: Int32 = 0
  public var signalsBlocked: UInt64 = 0
  public var capInheritable: UInt64 = 0
  public var capPermitted: UInt64 = 0
  public var capEffective: UInt64 = 0
  public var capBounding: UInt64 = 0
  public var capAmbient: UInt64 = 0
  public var noNewPrivileges = false
  /// 0 none, 1 strict, 2 filter
  public var seccompMode: UInt32 = 0
  public var seccompFilters = 0
  public var thpEnabled = true
  public var hasMemory = false
  /// Of locked memory (mlock(2)).
  public var lockedKB: UInt64 = 0

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
      case 5 where key.matches("VmRSS"): hasMemory = true
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
