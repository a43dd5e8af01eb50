import Glibc
import Linux

/// What the tasks of a restore may set for themselves, and what this process may for them.
public struct Privileges: Sendable {
  /// What stubs have, in the user namespace that they live in.
  let capabilities: Capabilities
  /// The part of it that counts for what is the machine's: limits, priorities (kernel/capability.c: capable).
  let machine: Capabilities
  /// The tree gets a user namespace of its own, in which this user may do what only root may outside.
  public let makesUserNamespace: Bool
  /// Not everything that a task may have can be given back.
  public let areLimited: Bool
  /// Where only limits of the machine cannot be set back, a warning does (``ResourceLimits``, ``OOMScore``).
  let acceptLimits: Bool

  /// What sets back all that a task may have but limits.
  private static let needed: Capabilities = [
    .chown, .dacOverride, .setGID, .setUID, .setPCap, .ipcLock, .sysChroot, .sysPtrace, .sysAdmin, .sysNice, .wakeAlarm,
  ]

  /// Whether groups can be chosen: a user without privileges maps itself only, and must give that up (man 7 user_namespaces).
  var canSetIDs: Bool { !makesUserNamespace }

  public init(_ options: RestoreOptions) {
    let own = Capabilities.own
    let isInitial = UserNamespace.isInitial
    makesUserNamespace = options.newPIDNamespace && !own.contains(.sysAdmin)
    acceptLimits = !makesUserNamespace && isInitial && own.contains(.sysAdmin)
    areLimited = !acceptLimits || !own.isSuperset(of: Self.needed)
    capabilities = makesUserNamespace ? Capabilities(rawValue: UInt64.max) : own
    machine = makesUserNamespace || !isInitial ? [] : own
  }

  /// Has stubs keep this process's capabilities over their exec, in a user namespace made for them if they need one.
  /// There must be one thread only.
  public func prepare() throws(Failure) {
    guard areLimited else { return }
    Capabilities.keepOverExec()
    if makesUserNamespace {
      try UserNamespace.enterNew()
      Capabilities.keepOverExec()
    }
  }

  /// Nothing can be restored without these, whatever is left out.
  public func check() throws(Failure) {
    guard areLimited, capabilities.isDisjoint(with: [.checkpointRestore, .sysAdmin]) else { return }
    throw Failure(
      "this user may not choose PIDs, nor say which file a process executes",
      advice: "Restore with --new-pid-namespace, or with CAP_CHECKPOINT_RESTORE, or as root.", errno: .notPermitted)
  }
}

extension RestoreContext {
  /// Replaces what of a task not even root can set, if it lacks a capability, which nothing gives back, and names it.
  public func concede(_ task: RestoredTask, _ cores: [CoreImage]) {
    MachineLimits.concede(task, self)
    for core in cores where privileges.areLimited || !Credentials.areWithin(core.entry, privileges.capabilities) {
      concede(Credentials.concede(&core.entry, to: expectedStub, privileges), of: task)
    }
  }

  /// Goes through all else that tasks are to have, replaces what this user cannot set by what they have anyway, and names it.
  /// - Parameter others: of each task, the threads but the leader.
  public func concede(_ tasks: [RestoredTask], _ others: [[CoreImage]], nested: Bool) throws(Failure) {
    guard privileges.areLimited else { return warnings += try concessions.settle(accepting: options.unprivileged) }
    try privileges.check()
    if !privileges.capabilities.contains(.sysAdmin), nested || !namespaces.areNone {
      concessions.add(
        "namespaces of its own: needs CAP_SYS_ADMIN, or --new-pid-namespace", of: "the tree", isVital: true)
    }
    for (task, others) in zip(tasks, others) where !task.isZombie {
      let stub = expectedStub
      if !privileges.acceptLimits { concede(OOMScore.concede(&task.image.entry), of: task) }
      for kind in processStates where !(kind == ResourceLimits.self && privileges.acceptLimits) {
        concede(kind.concede(&task.image.entry, to: stub, privileges), of: task)
      }
      concede(AddressSpace.concede(task, to: stub, privileges), of: task)
      concede(try FileSystemContext.concede(task, self), of: task)
      for core in [task.image] + others {
        for kind in threadStates { concede(kind.concede(&core.entry, to: stub, privileges), of: task) }
        if core.entry.threadCore?.seccompMode?.rawValue ?? 0 != 0, !privileges.machine.contains(.sysAdmin) {
          concessions.add("seccomp: needs CAP_SYS_ADMIN", of: task.description, isVital: true)
        }
        if !privileges.capabilities.contains(.sysPtrace), !Credentials.isWithinReach(core.entry, of: stub) {
          concessions.add("another user than this one: needs CAP_SYS_PTRACE", of: task.description, isVital: true)
        }
      }
    }
    warnings += try concessions.settle(accepting: options.unprivileged)
  }

  private func concede(_ denied: [String], of task: RestoredTask) {
    if !denied.isEmpty { task.isChanged = true }
    for what in denied { concessions.add(what, of: task.description) }
  }
}

/// What of a tree cannot be given back with the privileges that there are: found while the restore is planned, so that
/// all of it is named before anything is made.
public struct Concessions {
  /// What, with what it needs; and whose it is.
  private var whose: [String: [String]] = [:]
  private var order: [String] = []
  private var vital: Set<String> = []

  /// - `isVital`: without it the tree would not work, or not be as safe as it was: it cannot be left out.
  public mutating func add(_ what: String, of owner: String, isVital: Bool = false) {
    if whose[what] == nil { order.append(what) }
    if whose[what]?.last != owner { whose[what, default: []].append(owner) }
    if isVital { vital.insert(what) }
  }

  private func line(_ what: String) -> String {
    let owners = whose[what] ?? []
    let rest = owners.count > 3 ? " and \(owners.count - 3) more" : ""
    return "\(owners.prefix(3).joined(separator: ", "))\(rest): \(what)"
  }

  /// Throws what cannot be accepted; the rest are warnings.
  public func settle(accepting: Bool) throws(Failure) -> [String] {
    let refused = order.filter { !accepting || vital.contains($0) }
    if refused.isEmpty { return order.map { line($0) + "; left as it is here" } }
    let lines = refused.map(line)
    let acceptable = refused.contains { !vital.contains($0) }
    let demanded = refused.contains { vital.contains($0) }
    throw Failure(
      "cannot be set back with this user's privileges: "
        + (lines.count == 1 ? lines[0] : "\(lines.count) things:\n  " + lines.joined(separator: "\n  ")),
      advice: "Nothing was made. Restore as root with all capabilities"
        + (acceptable && !demanded ? ", or give --unprivileged to restore without what is named." : "."),
      errno: .notPermitted)
  }
}
