import CCap
import CLinux
import Glibc

/// A set of capabilities (man 7 capabilities), as the kernel's 64-bit mask.
public struct Capabilities: OptionSet, Sendable, Hashable {
  public let rawValue: UInt64
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  public static let chown = Capabilities(rawValue: 1 << 0)
  public static let dacOverride = Capabilities(rawValue: 1 << 1)
  public static let dacReadSearch = Capabilities(rawValue: 1 << 2)
  public static let kill = Capabilities(rawValue: 1 << 5)
  public static let setPCap = Capabilities(rawValue: 1 << 8)
  public static let ipcLock = Capabilities(rawValue: 1 << 14)
  public static let netAdmin = Capabilities(rawValue: 1 << 12)
  public static let sysRawIO = Capabilities(rawValue: 1 << 17)
  public static let sysChroot = Capabilities(rawValue: 1 << 18)
  public static let sysPtrace = Capabilities(rawValue: 1 << 19)
  public static let sysAdmin = Capabilities(rawValue: 1 << 21)
  public static let sysNice = Capabilities(rawValue: 1 << 23)
  public static let sysResource = Capabilities(rawValue: 1 << 24)
  public static let setUID = Capabilities(rawValue: 1 << 7)
  public static let setGID = Capabilities(rawValue: 1 << 6)
  public static let wakeAlarm = Capabilities(rawValue: 1 << 35)
  public static let perfmon = Capabilities(rawValue: 1 << 38)
  public static let bpf = Capabilities(rawValue: 1 << 39)
  public static let checkpointRestore = Capabilities(rawValue: 1 << 40)

  /// This process's effective capabilities, when they were first asked for.
  public static let own: Capabilities = {
    guard let caps = cap_get_proc() else { return [] }
    defer { cap_free(UnsafeMutableRawPointer(caps)) }
    var mask: UInt64 = 0
    for number in 0..<64 {
      var value = CAP_CLEAR
      if cap_get_flag(caps, cap_value_t(number), CAP_EFFECTIVE, &value) == 0, value == CAP_SET {
        mask |= 1 << UInt64(number)
      }
    }
    return Capabilities(rawValue: mask)
  }()

  /// Has what this process executes have its permitted capabilities, though its user is not root and the file gives none
  /// (man 7 capabilities, ambient set). Where that is forbidden (SECBIT_NO_CAP_AMBIENT_RAISE), nothing is changed.
  public static func keepOverExec() {
    if geteuid() == 0 { return }
    // Who has a file's capabilities cannot be looked at, not by its own children either. They have the same capabilities, and who
    // has less may not, whatever this flag says (security/commoncap.c: cap_ptrace_access_check).
    _ = cl_syscall(Int(__NR_prctl), 4 /* PR_SET_DUMPABLE */, 1, 0, 0, 0, 0)
    guard let caps = cap_get_proc() else { return }
    defer { cap_free(UnsafeMutableRawPointer(caps)) }
    var held: [cap_value_t] = []
    for number in 0..<cap_value_t(cap_max_bits()) {
      var value = CAP_CLEAR
      if cap_get_flag(caps, number, CAP_PERMITTED, &value) == 0, value == CAP_SET { held.append(number) }
    }
    for set in [CAP_INHERITABLE, CAP_EFFECTIVE] { cap_set_flag(caps, set, Int32(held.count), held, CAP_SET) }
    guard cap_set_proc(caps) == 0 else { return }
    for number in held { cap_set_ambient(number, CAP_SET) }
  }

  /// All that this kernel has.
  public static let all: Capabilities = Capabilities(rawValue: (1 << UInt64(cap_max_bits())) - 1)

  /// The names of the set's members: "cap_sys_admin".
  public var names: [String] {
    (0..<64).filter { rawValue & (1 << UInt64($0)) != 0 }.map { number in
      guard let name = cap_to_name(cap_value_t(number)) else { return "cap_\(number)" }
      defer { cap_free(name) }
      return String(cString: name)
    }
  }
}

extension Failure {
  /// Where the kernel forbade something and nobody has said what it takes: names what of root's rights this process lacks.
  public func namingMissingCapabilities() -> Failure {
    let useful: Capabilities = [
      .chown, .dacOverride, .dacReadSearch, .kill, .setGID, .setUID, .setPCap, .ipcLock, .sysChroot, .sysPtrace, .sysAdmin, .sysNice,
      .checkpointRestore,
    ]
    let missing = useful.subtracting(.own).names.map { $0.uppercased() }
    guard errno == .notPermitted || errno == .permissionDenied, !missing.isEmpty, !description.contains("CAP_") else { return self }
    let rights = "This process lacks \(missing.joined(separator: ", ")); run it as root with all capabilities."
    return Failure(cause, advice: advice.isEmpty ? rights : "\(rights) \(advice)", errno: errno)
  }
}
