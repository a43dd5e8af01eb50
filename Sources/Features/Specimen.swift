import CLinux
import Glibc
import Linux
import SystemPackage
import Tracee

/// A child that does nothing: a stub as a restore makes it, parked in its executor, to try things on.
/// Whoever made it ends it.
final class Specimen {
  let pid: Int32
  let area: ExecutorArea
  /// The memory of the area, under the same number in the child.
  let memory: Int32
  private let descriptor: Descriptor
  private var isReaped = false

  var slot: Slot { area.slots[0] }
  var stubAddress: UInt64 { Self.address + UInt64(area.size) + UInt64(pageSize) }

  /// Far from where the kernel puts a new program's stack and vDSO.
  private static let address: UInt64 = 0x2000_0000_0000

  /// Makes the child with these clone flags, and these PIDs from the innermost level outwards if any are given. The failure
  /// has an errno only if it is clone3's.
  init(_ deadManSwitch: DeadManSwitch, flags: Int32 = 0, setTID: [Int32] = []) throws(Failure) {
    let slots = [4 * pageSize]
    let file = try Self.makeMemory(of: ExecutorArea.size(slots: slots))
    memory = file.rawValue
    area = try about("mapping the executor's area") { () throws(Errno) in
      try ExecutorArea(
        memory: file.rawValue, address: Self.address, slots: slots, deadManSwitch: deadManSwitch)
    }
    area.watch()
    descriptor = file
    let stub = Self.address + UInt64(area.size) + UInt64(pageSize)
    var arguments = cl_clone_args()
    arguments.flags = UInt64(UInt32(bitPattern: flags))
    arguments.exit_signal = UInt64(SIGCHLD)
    var numbers = setTID
    do throws(Errno) {
      pid = try numbers.withUnsafeMutableBufferPointer { [area, memory] numbers throws(Errno) in
        if !numbers.isEmpty {
          arguments.set_tid = UInt64(UInt(bitPattern: numbers.baseAddress))
          arguments.set_tid_size = UInt64(numbers.count)
        }
        return try Stub.spawn(
          in: area.slots[0], of: area, areaMemory: memory, address: stub, arguments: arguments)
      }
    } catch {
      throw Failure("clone3", error)
    }
    try waitAll()
  }

  private static func makeMemory(of size: Int) throws(Failure) -> Descriptor {
    try about("memfd_create") { () throws(Errno) in
      let memory = try memfdCreate("swift-restore-check")
      try syscall(__NR_ftruncate, Int(memory.rawValue), size)
      // The child gets it: without close-on-exec.
      return Descriptor(Int32(try syscall(__NR_fcntl, Int(memory.rawValue), 0 /* F_DUPFD */, 3)))
    }
  }

  /// Runs a program in the child, and throws what stopped it.
  func run(_ program: borrowing SyscallProgram) throws(Failure) {
    slot.load(program)
    area.start(slot)
    try waitAll()
    try slot.check(program, task: "a child")
  }

  private func waitAll() throws(Failure) {
    try area.waitAll { () throws(Failure) in
      var status: Int32 = 0
      let result = withUnsafeMutablePointer(to: &status) {
        cl_syscall(Int(__NR_wait4), Int(pid), Int(bitPattern: $0), Int(WNOHANG), 0, 0, 0)
      }
      guard result == 0 else {
        isReaped = true
        throw Failure("a child ended at once (wait status \(status)): is it forbidden to execute a memfd?")
      }
    }
  }

  /// Kills the child and waits for it, so that its PID is free.
  func end() {
    if isReaped { return }
    isReaped = true
    kill(pid, SIGKILL)
    while cl_syscall(Int(__NR_wait4), Int(pid), 0, 0x4000_0000 /* __WALL */, 0, 0, 0) == -Int(EINTR) {}
  }
}
