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

  public static func concede(_ core: inout CoreEntry, to stub: StubState, _ may: Privileges) -> [String] {
    guard var entry = core.threadCore?.creds, let own = stub.credentials, !isSame(entry, own) else { return [] }
    var denied = concedeIDs(&entry, own, may)
    denied += concedeCapabilities(&entry, own, may)
    if entry.secbits != own.secbits, !may.capabilities.contains(.setPCap) {
      denied.append("secure bits 0x\(String(entry.secbits, radix: 16)): needs CAP_SETPCAP")
      entry.secbits = own.secbits
    }
    if entry.noNewPrivs ?? 0 == 0, own.noNewPrivs == 1 {
      denied.append("no_new_privs is set here, and cannot be taken back")
      entry.noNewPrivs = 1
    }
    core.thread.creds = entry
    return denied
  }

  /// Whether no set of a thread's has more than these capabilities, and it may lack what nobody gives back.
  static func areWithin(_ core: CoreEntry, _ capabilities: Capabilities) -> Bool {
    guard let entry = core.threadCore?.creds else { return true }
    let all = mask(entry.capPrm) | mask(entry.capEff) | mask(entry.capInh) | mask(entry.capAmb) | mask(entry.capBnd)
    return all & ~capabilities.rawValue == 0 && (entry.noNewPrivs == 1 || !hasNoNewPrivileges)
  }

  private static let hasNoNewPrivileges = cl_syscall(Int(__NR_prctl), 39 /* PR_GET_NO_NEW_PRIVS */, 0, 0, 0, 0, 0) == 1

  /// Whether this process may attach to who has these credentials, without CAP_SYS_PTRACE (kernel/ptrace.c: __ptrace_may_access,
  /// security/commoncap.c: cap_ptrace_access_check).
  static func isWithinReach(_ core: CoreEntry, of stub: StubState) -> Bool {
    guard let entry = core.threadCore?.creds, let own = stub.credentials else { return true }
    return Set([entry.uid, entry.euid, entry.suid]) == [own.euid] && Set([entry.gid, entry.egid, entry.sgid]) == [own.egid]
      && mask(entry.capPrm) & ~mask(own.capPrm) == 0
  }

  private static func concedeIDs(_ entry: inout CredsEntry, _ own: CredsEntry, _ may: Privileges) -> [String] {
    var denied: [String] = []
    // Without a capability each ID may become one of the others that the thread has (man 2 setresuid).
    let users = [entry.uid, entry.euid, entry.suid, entry.fsuid]
    let ownUsers = [own.uid, own.euid, own.suid, own.fsuid]
    if users != ownUsers, !may.canSetIDs || !may.capabilities.contains(.setUID) && !Set(users).isSubset(of: ownUsers) {
      denied.append("user IDs \(list(users)): needs CAP_SETUID")
      (entry.uid, entry.euid, entry.suid, entry.fsuid) = (own.uid, own.euid, own.suid, own.fsuid)
    }
    let groups = [entry.gid, entry.egid, entry.sgid, entry.fsgid]
    let ownGroups = [own.gid, own.egid, own.sgid, own.fsgid]
    if groups != ownGroups, !may.canSetIDs || !may.capabilities.contains(.setGID) && !Set(groups).isSubset(of: ownGroups) {
      denied.append("group IDs \(list(groups)): needs CAP_SETGID")
      (entry.gid, entry.egid, entry.sgid, entry.fsgid) = (own.gid, own.egid, own.sgid, own.fsgid)
    }
    if entry.groups != own.groups, !may.canSetIDs || !may.capabilities.contains(.setGID) {
      denied.append("supplementary groups \(entry.groups.isEmpty ? "(none)" : list(entry.groups)): needs CAP_SETGID")
      entry.groups = own.groups
    }
    return denied
  }

  private static func list(_ ids: [UInt32]) -> String { ids.map(String.init).joined(separator: ",") }

  private static func concedeCapabilities(_ entry: inout CredsEntry, _ own: CredsEntry, _ may: Privileges) -> [String] {
    var denied: [String] = []
    // The same capabilities in a namespace of its own would be other rights.
    let most = may.makesUserNamespace ? 0 : mask(own.capPrm)
    let mayInherit =
      may.makesUserNamespace ? 0 : may.capabilities.contains(.setPCap) ? UInt64.max : mask(own.capInh) | most
    let wanted = mask(entry.capPrm) | mask(entry.capEff) | mask(entry.capAmb)
    let missing = Capabilities(rawValue: wanted & ~most | mask(entry.capInh) & ~mayInherit)
    if !missing.isEmpty {
      denied.append("capabilities \(missing.names.joined(separator: ",")), which this user does not have")
      let inheritable = mask(entry.capInh) & mayInherit
      (entry.capPrm, entry.capEff) = (words(mask(entry.capPrm) & most), words(mask(entry.capEff) & most))
      (entry.capInh, entry.capAmb) = (words(inheritable), words(mask(entry.capAmb) & most & inheritable))
    }
    let (bounding, ownBounding) = (mask(entry.capBnd), mask(own.capBnd))
    let more = Capabilities(rawValue: bounding & ~ownBounding)
    if !more.isEmpty {
      denied.append("the bounding set's \(more.names.joined(separator: ",")), which are not in this process's")
      entry.capBnd = words(bounding & ownBounding)
    }
    let fewer = Capabilities(rawValue: ownBounding & ~bounding)
    if !fewer.isEmpty, !may.capabilities.contains(.setPCap) {
      denied.append("a bounding set without \(fewer.names.joined(separator: ",")): needs CAP_SETPCAP")
      entry.capBnd = words(mask(entry.capBnd) | ownBounding)
    }
    return denied
  }

  public static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) {
    if let entry = thread.core.thread.creds, !isSame(entry, thread.stub?.credentials) {
      restore(entry, from: thread.stub?.credentials, &program)
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
    return hasSameIDs(a, b) && hasSameSets(a, b) && mask(a.capBnd) == mask(b.capBnd) && a.secbits == b.secbits
      && a.noNewPrivs ?? 0 == b.noNewPrivs ?? 0 && a.groups == b.groups
  }

  private static func hasSameIDs(_ a: CredsEntry, _ b: CredsEntry) -> Bool {
    (a.uid, a.euid, a.suid, a.fsuid) == (b.uid, b.euid, b.suid, b.fsuid)
      && (a.gid, a.egid, a.sgid, a.fsgid) == (b.gid, b.egid, b.sgid, b.fsgid)
  }

  private static func hasSameSets(_ a: CredsEntry, _ b: CredsEntry) -> Bool {
    mask(a.capInh) == mask(b.capInh) && mask(a.capPrm) == mask(b.capPrm) && mask(a.capEff) == mask(b.capEff)
      && mask(a.capAmb) == mask(b.capAmb)
  }

  /// What is the same as the stub's needs no call, which may need a privilege.
  private static func restore(_ entry: CredsEntry, from stub: CredsEntry?, _ program: inout SyscallProgram) {
    if entry.groups != stub?.groups {
      program.call(
        __NR_setgroups, Argument(entry.groups.count),
        Argument(entry.groups.withUnsafeBytes { program.place($0) }), for: "setting the supplementary groups")
    }
    var secureBits = stub?.secbits
    if !(stub.map { hasSameIDs(entry, $0) } ?? false) {
      // SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS: the capabilities last until all IDs are set.
      if mask(stub?.capPrm ?? [UInt32.max]) & Capabilities.setPCap.rawValue != 0 {
        program.call(
          __NR_prctl, 28 /* PR_SET_SECUREBITS */, 0x14, for: "keeping capabilities over the change of IDs")
        secureBits = 0x14
      }
      setIDs(entry, &program)
    }
    let drop = stub.map { mask($0.capBnd) } ?? UInt64.max
    for number in 0..<64 where drop & ~mask(entry.capBnd) & (1 << UInt64(number)) != 0 {
      program.call(
        __NR_prctl, 24 /* PR_CAPBSET_DROP */, Argument(number),
        mayFail: stub == nil,
        for: "dropping from the bounding set capability",
        UInt64(number))
    }
    if !(stub.map { hasSameSets(entry, $0) } ?? false) || secureBits != entry.secbits {
      setCapabilities(entry, from: stub, &program, secureBits: secureBits)
    }
    if entry.noNewPrivs == 1, stub?.noNewPrivs != 1 {
      program.call(__NR_prctl, 38 /* PR_SET_NO_NEW_PRIVS */, 1, 0, 0, 0, for: "setting no_new_privs")
    }
  }

  private static func setIDs(_ entry: CredsEntry, _ program: inout SyscallProgram) {
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
  }

  /// Sets the four sets and the secure bits, in an order in which each has what it needs.
  private static func setCapabilities(
    _ entry: CredsEntry, from stub: CredsEntry?, _ program: inout SyscallProgram, secureBits: UInt32?
  ) {
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
    if let stub, mask(stub.capAmb) & ~ambient != 0 {
      program.call(
        __NR_prctl, 47 /* PR_CAP_AMBIENT */, 4 /* PR_CAP_AMBIENT_CLEAR_ALL */, 0, 0, 0, for: "clearing the ambient capabilities")
    }
    if ambient != 0 {
      let held = stub.map { mask($0.capPrm) } ?? Capabilities.own.rawValue
      capset(held, held, inheritable)
      for number in 0..<64 where ambient & (1 << UInt64(number)) != 0 {
        program.call(
          __NR_prctl, 47 /* PR_CAP_AMBIENT */, 2, Argument(number), 0, 0,
          for: "raising the ambient capability",
          UInt64(number))
      }
    }
    if secureBits != entry.secbits { program.call(__NR_prctl, 28, Argument(entry.secbits), for: "setting the secure bits") }
    capset(mask(entry.capEff), mask(entry.capPrm), inheritable)
  }

  static func words(_ mask: UInt64) -> [UInt32] {
    [UInt32(truncatingIfNeeded: mask), UInt32(mask >> 32)]
  }

  static func mask(_ words: [UInt32]) -> UInt64 {
    UInt64(words.first ?? 0) | UInt64(words.dropFirst().first ?? 0) << 32
  }
}
