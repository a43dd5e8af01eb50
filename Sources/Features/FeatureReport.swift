import Linux

/// Something that this kernel and these privileges allow or not.
public struct Feature: Sendable {
  /// What cannot do without it.
  public enum Need: Sendable, Equatable {
    case dump
    case restore
    case both
    /// A restore with `--new-pid-namespace` by a user without CAP_SYS_ADMIN.
    case unprivileged
    /// Only programs that have this.
    case programs(with: String)
    /// Nothing: a dump of some programs is slower without.
    case speed(String)
    /// Nothing yet.
    case later(String)
  }

  /// The kernel's word for it.
  public let name: String
  public let need: Need
  /// What happened when it was tried; `nil` if it worked.
  public let failure: Failure?

  public var isThere: Bool { failure == nil }
}

/// A capability, and what does not work without it.
public struct CapabilityUse: Sendable {
  public let capability: Capabilities
  public let without: String
  /// Whether this process has it effective.
  public var isHeld: Bool { Capabilities.own.contains(capability) }
  /// As the manual pages write it: CAP_SYS_ADMIN.
  public var name: String { capability.names.joined(separator: ",").uppercased() }
}

/// What this kernel and these privileges allow, found out by doing it.
public struct FeatureReport: Sendable {
  public let features: [Feature]
  public let capabilities: [CapabilityUse] = capabilityUses

  /// Tries everything on children made for it, which are gone when this returns.
  public init() throws(Failure) {
    Capabilities.keepOverExec()
    features = try Trial().run()
  }

  /// The features that are missing and that a dump cannot do without.
  public var missingForDump: [Feature] {
    features.filter { !$0.isThere && ($0.need == .dump || $0.need == .both) }
  }

  /// The features that are missing and that a restore cannot do without.
  public var missingForRestore: [Feature] {
    features.filter { !$0.isThere && ($0.need == .restore || $0.need == .both) }
  }
}

extension FeatureReport {
  /// Whether a restore works with `--new-pid-namespace` though it does not without: in a user namespace made for it, where this user may
  /// do all that the rest needs.
  public var restoresInNewNamespace: Bool {
    let given = ["clone3 set_tid", "PR_SET_MM_MAP with exe_fd"]
    return !missingForRestore.isEmpty && missingForRestore.allSatisfy { given.contains($0.name) }
      && features.contains { $0.need == .unprivileged && $0.isThere }
  }
}

private let capabilityUses: [CapabilityUse] = [
  CapabilityUse(
    capability: .sysPtrace, without: "only processes of this user, with no more privileges, are dumped"),
  CapabilityUse(
    capability: .sysAdmin, without: "no namespaces, no seccomp filters; PIDs need CAP_CHECKPOINT_RESTORE"),
  CapabilityUse(
    capability: .checkpointRestore, without: "PIDs and executables are restored by CAP_SYS_ADMIN only"),
  CapabilityUse(
    capability: .sysResource, without: "hard limits cannot be raised, oom_score_adj cannot be lowered"),
  CapabilityUse(
    capability: .sysNice, without: "no higher priorities, no real-time policies than this process may have"),
  CapabilityUse(capability: .ipcLock, without: "no locked memory beyond RLIMIT_MEMLOCK"),
  CapabilityUse(
    capability: .bpf, without: "CAP_SYS_ADMIN is needed for a fast dump of very many mappings, descriptors or threads"),
  CapabilityUse(capability: .setUID, without: "user IDs other than one's own are not restored"),
  CapabilityUse(capability: .setGID, without: "group IDs other than one's own are not restored"),
  CapabilityUse(capability: .setPCap, without: "capability bounding sets and securebits are not restored"),
  CapabilityUse(capability: .sysChroot, without: "root directories other than one's own are not restored"),
  CapabilityUse(capability: .dacOverride, without: "files that are closed to this user are not opened again"),
  CapabilityUse(capability: .chown, without: "deleted files of other users are not made again"),
  CapabilityUse(capability: .kill, without: "a dump does not end the processes of other users"),
]
