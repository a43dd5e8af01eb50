/// The flags of `clone(2)` and `unshare(2)` that shape a process tree, with the kernel's values
/// (`include/uapi/linux/sched.h`).
public struct CloneFlags: OptionSet, Hashable, Sendable, CustomStringConvertible {
  public var rawValue: UInt64
  public init(rawValue: UInt64) { self.rawValue = rawValue }

  public static let vm = CloneFlags(rawValue: 0x0000_0100)
  public static let fs = CloneFlags(rawValue: 0x0000_0200)
  public static let files = CloneFlags(rawValue: 0x0000_0400)
  public static let sighand = CloneFlags(rawValue: 0x0000_0800)
  public static let parent = CloneFlags(rawValue: 0x0000_8000)
  public static let thread = CloneFlags(rawValue: 0x0001_0000)
  public static let sysvsem = CloneFlags(rawValue: 0x0004_0000)
  public static let newPID = CloneFlags(rawValue: 0x2000_0000)

  /// What every thread shares with its leader.
  public static let threadShares: CloneFlags = [.vm, .fs, .files, .sighand, .thread, .sysvsem]

  public var description: String {
    let names: [(CloneFlags, String)] = [
      (.vm, "VM"), (.fs, "FS"), (.files, "FILES"), (.sighand, "SIGHAND"), (.parent, "PARENT"),
      (.thread, "THREAD"), (.sysvsem, "SYSVSEM"), (.newPID, "NEWPID"),
    ]
    return names.filter { contains($0.0) }.map(\.1).joined(separator: "|")
  }
}
