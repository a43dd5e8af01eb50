import CLinux
import Checkpoint
import Linux
import Tracee

/// A thread's user and group IDs, capability sets, secure bits, no_new_privs, and the signal it gets when its parent dies
/// (man 7 credentials, capabilities; man 2 prctl).
public struct Credentials: TaskState {
  private let secureBits: SyscallProgram.Call
  private let parentDeath: SyscallProgram.Buffer

  public init(asking program: inout SyscallProgram, in thread: DumpedThread) {
    secureBits = program.call(__NR_prctl, 27 /* PR_GET_SECUREBITS */, for: "reading the secure bits")
    parentDeath = program.reserve(8)
    program.call(
      __NR_prctl, 2 /* PR_GET_PDEATHSIG */, Argument(parentDeath.address),
      for: "reading the parent-death signal")
  }

  public func record(from slot: Slot, of thread: DumpedThread, into core: inout CoreEntry) {
    let secureBits = UInt32(truncatingIfNeeded: slot.result(secureBits))
    core.thread.creds = Self.entry(thread.status, secureBits: secureBits)
    core.thread.pdeathSig = slot.value(parentDeath, as: UInt32.self)
  }

  /// What `/proc/PID/status` shows of a thread, which tells everything but the secure bits.
  static func entry(_ status: ProcStatus, secureBits: UInt32) -> CredsEntry {
    var entry = CredsEntry()
    if status.uids.count == 4 {
      (entry.uid, entry.euid, entry.suid, entry.fsuid) = (
        status.uids[0], status.uids[1], status.uids[2], status.uids[3]
      )
    }
    if status.gids.count == 4 {
      (entry.gid, entry.egid, entry.sgid, entry.fsgid) = (
        status.gids[0], status.gids[1], status.gids[2], status.gids[3]
      )
    }
    entry.groups = status.groups
    entry.capInh = words(status.capInheritable)
    entry.capPrm = words(status.capPermitted)
    entry.capEff = words(status.capEffective)
    entry.capBnd = words(status.capBounding)
    entry.capAmb = words(status.capAmbient)
    entry.secbits = secureBits
    entry.noNewPrivs = status.noNewPrivileges ? 1 : 0
    return entry
  }

  public static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) {
    if let entry = thread.core.thread.creds, !isSame(entry, thread.stub?.credentials) {
      restore(entry, bounding: ownBounding, &program)
    }
    if let signal = thread.core.thread.pdeathSig, signal != 0 {
      // After the IDs: a change of those clears it (man 2 PR_SET_PDEATHSIG).
      program.call(
        __NR_prctl, 1 /* PR_SET_PDEATHSIG */, Argument(signal), for: "setting the parent-death signal")
    }
  }

  /// Whether two entries agree in all that is restored.
  private static func isSame(_ a: CredsEntry, _ b: CredsEntry?) -> Bool {
    guard let b else { return false }
    return (a.uid, a.euid, a.suid, a.fsuid) == (b.uid, b.euid, b.suid, b.fsuid)
      && (a.gid, a.egid, a.sgid, a.fsgid) == (b.gid, b.egid, b.sgid, b.fsgid) && a.groups == b.groups
      && mask(a.capInh) == mask(b.capInh) && mask(a.capPrm) == mask(b.capPrm) && mask(a.capEff) == mask(b.capEff)
      && mask(a.capBnd) == mask(b.capBnd) && mask(a.capAmb) == mask(b.capAmb) && a.secbits == b.secbits
      && a.noNewPrivs ?? 0 == b.noNewPrivs ?? 0
  }

  private static func restore(_ entry: CredsEntry, bounding: UInt64, _ program: inout SyscallProgram) {
    program.call(
      __NR_setgroups, Argument(entry.groups.count),
      Argument(entry.groups.withUnsafeBytes { program.place($0) }), for: "setting the supplementary groups")
    // SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS: the capabilities last until all IDs are set.
    program.call(
      __NR_prctl, 28 /* PR_SET_SECUREBITS */, 0x14, for: "keeping capabilities over the change of IDs")
    program.call(
      __NR_setresgid, Argument(entry.gid), Argument(entry.egid), Argument(entry.sgid),
      for: "setting the group IDs")
    if entry.fsgid != entry.egid {
      program.call(__NR_setfsgid, Argument(entry.fsgid), for: "setting the group ID for files")
    }
    program.call(
      __NR_setresuid, Argument(entry.uid), Argument(entry.euid), Argument(entry.suid),
      for: "setting the user IDs")
    if entry.fsuid != entry.euid {
      program.call(__NR_setfsuid, Argument(entry.fsuid), for: "setting the user ID for files")
    }
    let drop = bounding & ~mask(entry.capBnd)
    for number in 0..<64 where drop & (1 << UInt64(number)) != 0 {
      program.call(
        __NR_prctl, 24 /* PR_CAPBSET_DROP */, Argument(number),
        for: "dropping from the bounding set capability",
        UInt64(number))
    }
    // The inheritable set may grow beyond the permitted one only with CAP_SETPCAP: it is set while all are held.
    let inheritable = mask(entry.capInh)
    let ambient = mask(entry.capAmb)
    let header: (UInt32, Int32) = (0x2008_0522, 0)  // _LINUX_CAPABILITY_VERSION_3, this thread
    func capset(_ effective: UInt64, _ permitted: UInt64, _ inheritable: UInt64) {
      let data: (UInt32, UInt32, UInt32, UInt32, UInt32, UInt32) = (
        UInt32(truncatingIfNeeded: effective), UInt32(truncatingIfNeeded: permitted),
        UInt32(truncatingIfNeeded: inheritable), UInt32(effective >> 32), UInt32(permitted >> 32),
        UInt32(inheritable >> 32)
      )
      program.call(
        __NR_capset, Argument(program.place(header)), Argument(program.place(data)),
        for: "setting the capabilities")
    }
    if ambient != 0 {
      capset(Capabilities.own.rawValue, Capabilities.own.rawValue, inheritable)
      for number in 0..<64 where ambient & (1 << UInt64(number)) != 0 {
        program.call(
          __NR_prctl, 47 /* PR_CAP_AMBIENT */, 2, Argument(number), 0, 0,
          for: "raising the ambient capability",
          UInt64(number))
      }
    }
    program.call(__NR_prctl, 28, Argument(entry.secbits), for: "setting the secure bits")
    capset(mask(entry.capEff), mask(entry.capPrm), inheritable)
    if entry.noNewPrivs == 1 {
      program.call(__NR_prctl, 38 /* PR_SET_NO_NEW_PRIVS */, 1, 0, 0, 0, for: "setting no_new_privs")
    }
  }

  /// This process's bounding set, which the stubs inherit.
  private static let ownBounding: UInt64 = {
    var set: UInt64 = 0
    for number in 0..<64 where cl_syscall(Int(__NR_prctl), 23 /* PR_CAPBSET_READ */, number, 0, 0, 0, 0) == 1 {
      set |= 1 << UInt64(number)
    }
    return set
  }()

  private static func words(_ mask: UInt64) -> [UInt32] {
    [UInt32(truncatingIfNeeded: mask), UInt32(mask >> 32)]
  }

  private static func mask(_ words: [UInt32]) -> UInt64 {
    UInt64(words.first ?? 0) | UInt64(words.dropFirst().first ?? 0) << 32
  }
}
