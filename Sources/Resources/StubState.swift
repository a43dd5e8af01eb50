import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// What every stub has from its birth. State that a task is to have the same of needs no call.
///
/// Limits, scheduling and personality are the tracer's, who is the root's parent; what the root's exec may have made of the
/// credentials is asked.
public final class StubState {
  /// Soft and hard limit of each resource.
  let limits: [(UInt64, UInt64)]
  let nice: Int32
  let affinity: [UInt8]
  /// Nanoseconds.
  let timerSlack: UInt64
  let personality: UInt32
  private(set) var credentials: CredsEntry?

  /// `root`: a stub's PID in the tracer's namespace, while it has not run any program that changes its state.
  public convenience init(root: Int32) {
    let buffer = ReadBuffer()
    guard let directory = try? ProcDirectory(pid: root), let text = try? directory.read("status", buffer) else {
      self.init(credentials: nil)
      return
    }
    // An exec takes SECBIT_KEEP_CAPS away (security/commoncap.c: cap_bprm_creds_from_file).
    let secureBits = cl_syscall(Int(__NR_prctl), 27 /* PR_GET_SECUREBITS */, 0, 0, 0, 0, 0) & ~0x10
    self.init(credentials: Credentials.entry(ProcStatus(text), secureBits: UInt32(truncatingIfNeeded: secureBits)))
  }

  /// What the stubs of a restore with limited privileges will have.
  convenience init(expectedWith privileges: Privileges) {
    self.init(root: getpid())
    guard var entry = credentials else { return }
    // An exec makes the saved IDs the effective ones.
    (entry.suid, entry.fsuid, entry.sgid, entry.fsgid) = (entry.euid, entry.euid, entry.egid, entry.egid)
    var held = privileges.capabilities.rawValue & Capabilities.all.rawValue
    if privileges.makesUserNamespace {
      (entry.capBnd, entry.secbits) = (Credentials.words(held), 0)
    } else if entry.euid == 0 {
      held = Credentials.mask(entry.capBnd) | Credentials.mask(entry.capInh)
    }
    (entry.capPrm, entry.capEff) = (Credentials.words(held), Credentials.words(held))
    if entry.euid != 0 { (entry.capInh, entry.capAmb) = (Credentials.words(held), Credentials.words(held)) }
    credentials = entry
  }

  /// In a user namespace of its own a stub sees the IDs of others as nobody's. They are the same as outside.
  public func takeIDs(of outside: StubState) {
    guard let theirs = outside.credentials else { return }
    credentials?.groups = theirs.groups
    credentials?.uid = theirs.uid
    credentials?.gid = theirs.gid
  }

  private init(credentials: CredsEntry?) {
    self.credentials = credentials
    limits = (0..<ResourceLimits.count).map { resource in
      var limit: (UInt64, UInt64) = (0, 0)
      let result = withUnsafeMutablePointer(to: &limit) {
        cl_syscall(Int(__NR_prlimit64), 0, resource, 0, Int(bitPattern: $0), 0, 0)
      }
      // No task has a soft limit above the hard one: this equals none.
      return result == 0 ? limit : (UInt64.max, 0)
    }
    nice = Int32(20 - cl_syscall(Int(__NR_getpriority), 0, 0, 0, 0, 0, 0))
    var mask = [UInt8](repeating: 0, count: Scheduling.maskBytes)
    let size = mask.withUnsafeMutableBytes {
      cl_syscall(Int(__NR_sched_getaffinity), 0, $0.count, Int(bitPattern: $0.baseAddress), 0, 0, 0)
    }
    affinity = [UInt8](mask.prefix(max(size, 0)))
    timerSlack = UInt64(bitPattern: Int64(cl_syscall(Int(__NR_prctl), 30 /* PR_GET_TIMERSLACK */, 0, 0, 0, 0, 0)))
    personality = UInt32(truncatingIfNeeded: cl_syscall(Int(__NR_personality), 0xffff_ffff, 0, 0, 0, 0, 0))
  }
}
