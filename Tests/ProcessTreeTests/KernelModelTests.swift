import Testing

@testable import ProcessTree

/// The rules that schedules are checked against, one by one.
@Suite struct KernelModelTests {
  private var kernel = KernelModel()
  private var initProcess: KernelModel.Process { kernel.initProcess }

  private func errno(_ body: () throws -> Void) -> KernelError.Errno? {
    do {
      try body()
      return nil
    } catch { return (error as? KernelError)?.errno }
  }

  @Test func takenPIDIsRefused() throws {
    var kernel = kernel
    _ = try kernel.clone(by: initProcess, setTID: [PID(7)])
    #expect(errno { _ = try kernel.clone(by: initProcess, setTID: [PID(7)]) } == .EEXIST)
    #expect(errno { _ = try kernel.clone(by: initProcess, setTID: [PID(8), PID(9)]) } == .EINVAL)
    #expect(errno { _ = try kernel.clone(by: initProcess, setTID: [PID(40_000)]) } == .EINVAL)
  }

  @Test func numberStaysTakenWhileASessionHasIt() throws {
    var kernel = kernel
    let leader = try kernel.clone(by: initProcess, setTID: [PID(7)])
    try kernel.setsid(by: leader)
    let member = try kernel.clone(by: leader)
    try kernel.exit(leader, status: WaitStatus(exitCode: 0))
    _ = try kernel.wait(by: initProcess, for: leader)
    #expect(errno { _ = try kernel.clone(by: initProcess, setTID: [PID(7)]) } == .EEXIST)
    try kernel.setsid(by: member)
    #expect(errno { _ = try kernel.clone(by: initProcess, setTID: [PID(7)]) } == nil)
  }

  @Test func groupLeaderCannotLeadASession() throws {
    var kernel = kernel
    let leader = try kernel.clone(by: initProcess)
    try kernel.setpgid(by: leader, pid: .invisible, group: .invisible)
    #expect(errno { try kernel.setsid(by: leader) } == .EPERM)
    let other = try kernel.clone(by: initProcess)
    try kernel.setsid(by: other)
    #expect(errno { try kernel.setpgid(by: other, pid: .invisible, group: .invisible) } == .EPERM)
    let group = kernel.pid(of: leader, in: kernel.rootNamespace)
    let child = try kernel.clone(by: other)
    #expect(
      errno { try kernel.setpgid(by: child, pid: .invisible, group: group) } == .EPERM, "another session")
  }

  @Test func parentMovesAChildUntilItCallsExec() throws {
    var kernel = kernel
    let child = try kernel.clone(by: initProcess, setTID: [PID(7)])
    try kernel.setpgid(by: initProcess, pid: PID(7), group: PID(7))
    try kernel.exec(by: child)
    #expect(errno { try kernel.setpgid(by: initProcess, pid: PID(7), group: PID(1)) } == .EACCES)
  }

  @Test func orphansFallToTheNearestSubreaper() throws {
    var kernel = kernel
    let reaper = try kernel.clone(by: initProcess)
    let middle = try kernel.clone(by: reaper)
    let father = try kernel.clone(by: middle)
    let child = try kernel.clone(by: father, exitSignal: SignalNumber(10))
    try kernel.setChildSubreaper(by: reaper, true)
    try kernel.exit(father, status: WaitStatus(exitCode: 0))
    #expect(kernel.parent(of: child) == reaper)
    let record = kernel.record(root: child, outermost: kernel.rootNamespace).tasks[0]
    #expect(record.exitSignal == .child)
  }

  @Test func firstPIDOfANamespaceIsOne() throws {
    var kernel = kernel
    #expect(errno { _ = try kernel.clone(by: initProcess, flags: .newPID, setTID: [PID(2)]) } == .EINVAL)
    let inner = try kernel.clone(by: initProcess, flags: .newPID, setTID: [.one, PID(30)])
    #expect(kernel.pids(of: inner) == [PID(30), .one])
    #expect(errno { _ = try kernel.clone(by: inner, flags: .parent, exitSignal: .none) } == .EINVAL)
  }

  @Test func onlyChildrenEnterANamespace() throws {
    var kernel = kernel
    let inner = try kernel.clone(by: initProcess, flags: .newPID)
    let outer = try kernel.clone(by: initProcess)
    try kernel.setns(by: outer, to: kernel.namespace(of: inner))
    #expect(kernel.pids(of: outer).count == 1)
    #expect(errno { _ = try kernel.cloneThread(by: outer) } == .EINVAL)
    #expect(errno { _ = try kernel.clone(by: outer, flags: .newPID) } == .EINVAL)
    let entered = try kernel.clone(by: outer)
    #expect(kernel.pids(of: entered).count == 2)
    #expect(errno { try kernel.setns(by: inner, to: kernel.rootNamespace) } == .EINVAL)
  }

  @Test func childOfOneWhoEnteredFallsToTheInnerInit() throws {
    var kernel = kernel
    let inner = try kernel.clone(by: initProcess, flags: .newPID)
    let outer = try kernel.clone(by: initProcess)
    try kernel.setChildSubreaper(by: outer, true)
    try kernel.setns(by: outer, to: kernel.namespace(of: inner))
    let father = try kernel.clone(by: outer)
    let child = try kernel.clone(by: father)
    try kernel.exit(father, status: WaitStatus(exitCode: 0))
    #expect(kernel.parent(of: child) == inner)
  }

  @Test func namespaceDiesWithItsInit() throws {
    var kernel = kernel
    let inner = try kernel.clone(by: initProcess, flags: .newPID)
    _ = try kernel.clone(by: inner, setTID: [PID(2), PID(77)])
    let outer = try kernel.clone(by: initProcess)
    try kernel.setns(by: outer, to: kernel.namespace(of: inner))
    try kernel.exit(inner, status: WaitStatus(exitCode: 0))
    #expect(errno { _ = try kernel.clone(by: outer) } == .ENOMEM)
    #expect(errno { _ = try kernel.clone(by: initProcess, setTID: [PID(77)]) } == nil, "its tasks are gone")
  }

  @Test func sharingIsAskedForAtBirth() throws {
    var kernel = kernel
    #expect(errno { _ = try kernel.clone(by: initProcess, flags: .sighand) } == .EINVAL)
    let child = try kernel.clone(by: initProcess, flags: [.files, .fs])
    try kernel.unshare(by: child, flags: .fs)
    let tasks = kernel.record(root: initProcess, outermost: kernel.rootNamespace).canonical().tasks
    #expect(tasks.map(\.shares.files) == [ShareGroupID(1), ShareGroupID(1)])
    #expect(tasks.map(\.shares.fs) == [nil, nil])
  }
}
