import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// What System V shared memory, semaphores and message queues have in common (man 7 sysvipc, struct ipc_perm).
enum SystemVObject {
  /// The commands of shmctl, semctl and msgctl (linux/ipc.h).
  static let remove = 0
  static let set = 1
  /// The identifiers of all objects of a type, found by their places in the kernel's table: `info` answers with the highest place
  /// that is used, `stat` with the identifier of what is there. Both are commands of `call` and write to `status`.
  static func identifiers<Status: BitwiseCopyable>(
    _ call: Int32, info: Int, stat: Int, _ status: Status
  ) throws(Errno) -> [(id: Int, status: Status)] {
    // struct shm_info, seminfo and msginfo are smaller.
    var unused = [UInt64](repeating: 0, count: 32)
    let highest = try unused.withUnsafeMutableBufferPointer { buffer throws(Errno) in
      try control(call, 0, info, Int(bitPattern: buffer.baseAddress))
    }
    var found: [(id: Int, status: Status)] = []
    for place in 0...highest {
      var status = status
      let id = withUnsafeMutablePointer(to: &status) { raw(call, place, stat, Int(bitPattern: $0)) }
      if id >= 0 { found.append((id, status)) }
    }
    return found
  }

  /// semctl has its argument one place further (man 2 semctl).
  private static func raw(_ call: Int32, _ id: Int, _ command: Int, _ argument: Int) -> Int {
    call == __NR_semctl
      ? cl_syscall(Int(call), id, 0, command, argument, 0, 0) : cl_syscall(Int(call), id, command, argument, 0, 0, 0)
  }

  @discardableResult
  static func control(_ call: Int32, _ id: Int, _ command: Int, _ argument: Int) throws(Errno) -> Int {
    let result = raw(call, id, command, argument)
    if result < 0 { throw Errno(rawValue: Int32(-result)) }
    return result
  }

  static func control<Status: BitwiseCopyable>(_ call: Int32, _ id: Int, _ command: Int, _ status: Status) throws(Errno) {
    var status = status
    try withUnsafeMutablePointer(to: &status) { pointer throws(Errno) in
      _ = try control(call, id, command, Int(bitPattern: pointer))
    }
  }

  /// Makes an object with the recorded identifier, key and creator. `kind` is "shm", "sem" or "msg"; `get` makes the call.
  static func make(_ kind: String, _ desc: IpcDescEntry, _ get: () throws(Errno) -> Int) throws(Failure) {
    try Sysctl.write("kernel/\(kind)_next_id", String(desc.id))
    let id = try about("\(kind)get") { () throws(Errno) in try asCreator(desc, get) }
    guard id == Int(desc.id) else { throw Failure("\(kind)get gave the identifier \(id)") }
  }

  /// The creator is whoever makes the object, and cannot be changed later.
  private static func asCreator(_ desc: IpcDescEntry, _ body: () throws(Errno) -> Int) throws(Errno) -> Int {
    let (uid, gid) = (Int(geteuid()), Int(getegid()))
    if Int(desc.cuid) == uid && Int(desc.cgid) == gid { return try body() }
    try syscall(__NR_setresgid, -1, Int(desc.cgid), -1)
    try syscall(__NR_setresuid, -1, Int(desc.cuid), -1)
    let id = Result { () throws(Errno) in try body() }
    try syscall(__NR_setresuid, -1, uid, -1)
    try syscall(__NR_setresgid, -1, gid, -1)
    // Tasks could not get files from a process that is not dumpable any more (man 2 pidfd_getfd).
    try syscall(__NR_prctl, 4 /* PR_SET_DUMPABLE */, 1)
    return try id.get()
  }
}

extension IpcDescEntry {
  init(_ perm: ipc_perm, id: Int) {
    self.init()
    key = UInt32(bitPattern: perm.__key)
    uid = perm.uid
    gid = perm.gid
    cuid = perm.cuid
    cgid = perm.cgid
    mode = UInt32(perm.mode)
    self.id = UInt32(id)
  }

  /// What IPC_SET takes: the owner and the permissions.
  var settable: ipc_perm {
    var perm = ipc_perm()
    perm.uid = uid
    perm.gid = gid
    perm.mode = .init(truncatingIfNeeded: mode & 0o777)
    return perm
  }

  /// Flags of shmget, semget and msgget: the permissions, IPC_CREAT and IPC_EXCL.
  var makingFlags: Int { Int(mode & 0o777) | 0o3000 }
}
