/// `/proc/PID/status` (man 5 proc_pid_status): the lines that a dump needs.
///
/// As it was when it was read; whoever holds it looks at the same one.
public final class ProcStatus: @unchecked Sendable {
  public private(set) var state: UInt8 = 0
  public private(set) var tgid: Int32 = 0
  public private(set) var ppid: Int32 = 0
  public private(set) var tracerPID: Int32 = 0
  private var pid: Int32 = 0
  /// Of memory that is there (VmRSS), in KiB, up to 4 TiB; 0 without memory.
  public private(set) var residentKB: UInt32 = 0
  /// Where there is more than one level of PID namespaces.
  private var nested: Held<Levels>?
  private var common: Held<Common>

  fileprivate struct Levels: Sendable {
    var nsTgid: [Int32] = []
    var nsPid: [Int32] = []
  }

  /// PIDs at every level, outermost first, as far as this process sees.
  public var nsTgid: [Int32] { nested?.value.nsTgid ?? [tgid] }
  public var nsPid: [Int32] { nested?.value.nsPid ?? [pid] }

  /// How many levels there are.
  public var levelCount: Int { nested?.value.nsTgid.count ?? 1 }

  /// The one of a level, 0 being the outermost; `nil` below the innermost.
  public func tgid(at level: Int) -> Int32? { at(level, nested?.value.nsTgid, tgid) }
  public func pid(at level: Int) -> Int32? { at(level, nested?.value.nsPid, pid) }

  private func at(_ level: Int, _ numbers: [Int32]?, _ only: Int32) -> Int32? {
    guard let numbers else { return level == 0 ? only : nil }
    return numbers.indices.contains(level) ? numbers[level] : nil
  }

  /// What is often the same for relatives, which then hold it in common.
  fileprivate struct Common: Equatable, Sendable {
    var umask: UInt32 = 0
    var uids: [UInt32] = []
    var gids: [UInt32] = []
    var groups: [UInt32] = []
    var nsPgid: [Int32] = []
    var nsSid: [Int32] = []
    var tableSize: Int32 = 0
    var capInheritable: UInt64 = 0
    var capPermitted: UInt64 = 0
    var capEffective: UInt64 = 0
    var capBounding: UInt64 = 0
    var capAmbient: UInt64 = 0
    var noNewPrivileges = false
    var seccompMode: UInt32 = 0
    var seccompFilters = 0
    var thpEnabled = true
    var lockedKB: UInt64 = 0
  }

  public var umask: UInt32 { common.value.umask }
  /// real, effective, saved, file system
  public var uids: [UInt32] { common.value.uids }
  public var gids: [UInt32] { common.value.gids }
  public var groups: [UInt32] { common.value.groups }
  /// At every level, as ``nsTgid``.
  public var nsPgid: [Int32] { common.value.nsPgid }
  public var nsSid: [Int32] { common.value.nsSid }
  /// Descriptor numbers that the table has room for; those in use are below it.
  public var tableSize: Int32 { common.value.tableSize }
  public var capInheritable: UInt64 { common.value.capInheritable }
  public var capPermitted: UInt64 { common.value.capPermitted }
  public var capEffective: UInt64 { common.value.capEffective }
  public var capBounding: UInt64 { common.value.capBounding }
  public var capAmbient: UInt64 { common.value.capAmbient }
  public var noNewPrivileges: Bool { common.value.noNewPrivileges }
  /// 0 none, 1 strict, 2 filter
  public var seccompMode: UInt32 { common.value.seccompMode }
  public var seccompFilters: Int { common.value.seccompFilters }
  public var thpEnabled: Bool { common.value.thpEnabled }
  /// Of locked memory (mlock(2)).
  public var lockedKB: UInt64 { common.value.lockedKB }

  private init(_ other: ProcStatus) {
    (state, tgid, ppid, tracerPID) = (other.state, other.tgid, other.ppid, other.tracerPID)
    (pid, residentKB, nested, common) = (other.pid, other.residentKB, other.nested, other.common)
  }

  /// What is held before anything is known.
  public static let unread = ProcStatus(UnsafeRawBufferPointer(start: nil, count: 0))

  public init(_ text: UnsafeRawBufferPointer) {
    var common = Common()
    var levels = Levels()
    var c = ByteCursor(text)
    while !c.atEnd {
      let key = c.upTo(UInt8(ascii: ":"))
      c.skipBlanks()
      var v = ByteCursor(c.line())
      // Keys are told apart by their length and a few letters: this runs once for every task.
      switch key.count {
      case 3 where key.matches("Uid"): common.uids = v.unsignedList()
      case 3 where key.matches("Gid"): common.gids = v.unsignedList()
      case 4 where key.matches("Tgid"): tgid = Int32(truncatingIfNeeded: v.decimal())
      case 4 where key.matches("PPid"): ppid = Int32(truncatingIfNeeded: v.decimal())
      case 5 where key.matches("State"): state = v.peek ?? 0
      case 5 where key.matches("Umask"): common.umask = UInt32(truncatingIfNeeded: v.octal())
      case 5 where key.matches("NSpid"): levels.nsPid = v.signedList()
      case 5 where key.matches("NSsid"): common.nsSid = v.signedList()
      case 5 where key.matches("VmRSS"): residentKB = UInt32(clamping: v.unsigned())
      case 5 where key.matches("VmLck"): common.lockedKB = v.unsigned()
      case 6 where key.matches("FDSize"): common.tableSize = Int32(truncatingIfNeeded: v.decimal())
      case 6 where key.matches("Groups"): common.groups = v.unsignedList()
      case 6 where key.matches("NStgid"): levels.nsTgid = v.signedList()
      case 6 where key.matches("NSpgid"): common.nsPgid = v.signedList()
      case 6 where key.matches("CapInh"): common.capInheritable = v.hex()
      case 6 where key.matches("CapPrm"): common.capPermitted = v.hex()
      case 6 where key.matches("CapEff"): common.capEffective = v.hex()
      case 6 where key.matches("CapBnd"): common.capBounding = v.hex()
      case 6 where key.matches("CapAmb"): common.capAmbient = v.hex()
      case 7 where key.matches("Seccomp"): common.seccompMode = UInt32(truncatingIfNeeded: v.decimal())
      case 9 where key.matches("TracerPid"): tracerPID = Int32(truncatingIfNeeded: v.decimal())
      case 10 where key.matches("NoNewPrivs"): common.noNewPrivileges = v.decimal() != 0
      case 11 where key.matches("THP_enabled"): common.thpEnabled = v.decimal() != 0
      case 15 where key.matches("Seccomp_filters"): common.seccompFilters = Int(truncatingIfNeeded: v.decimal())
      default: break
      }
    }
    if levels.nsTgid == [tgid], levels.nsPid.count == 1 { pid = levels.nsPid[0] } else { nested = Held(levels) }
    self.common = Held(common)
  }
}

extension ProcStatus {
  /// That of a thread which has all in common with another of its process, in the one PID namespace that there is.
  public convenience init(of tid: Int32, like other: ProcStatus) {
    self.init(other)
    pid = tid
    nested?.value.nsPid = [tid]
  }

  /// What is the same as another's, as relatives' often is, is held in memory once.
  public func hold(like other: ProcStatus) {
    if let levels = nested?.value, levels.nsPid == levels.nsTgid { nested?.value.nsPid = levels.nsTgid }
    if common.value == other.common.value {
      common = other.common
    } else {
      common.value.hold(listsOf: other.common.value)
    }
  }
}

extension ProcStatus.Common {
  fileprivate mutating func hold(listsOf other: Self) {
    if uids == other.uids { uids = other.uids }
    if gids == other.gids { gids = other.gids }
    if groups == other.groups { groups = other.groups }
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
