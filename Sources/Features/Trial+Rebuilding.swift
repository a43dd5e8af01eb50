import CLinux
import Glibc
import Linux
import SystemPackage
import Tracee

/// What a restored task does to itself, tried in a child.
extension Trial {
  func mmMap() throws(Failure) {
    try inChild { child, program in
      appendMMMap(child, executable: -1, &program)
    }
  }

  /// The child becomes a process of the same executable. For that, as in a restore, nothing of the old one may be mapped
  /// (kernel/sys.c: prctl_set_mm_exe_file).
  func mmMapExecutable() throws(Failure) {
    try inChild { child, program in
      let number: Int32 = 100
      let path = program.place(path: Array("/proc/self/exe".utf8))
      let file = program.call(
        __NR_openat, Argument(AT_FDCWD), Argument(path), 0, for: "opening its executable")
      program.call(__NR_dup3, .result(file), Argument(number), 0, for: "placing its executable")
      program.call(
        __NR_munmap, Argument(child.stubAddress), Argument(pageSize), for: "unmapping its executable")
      appendMMMap(child, executable: number, &program)
    }
  }

  private func appendMMMap(_ child: Specimen, executable: Int32, _ program: inout SyscallProgram) {
    let start = child.area.address
    let end = start + UInt64(pageSize)
    // struct prctl_mm_map: code, data, brk, stack, arguments, environment, auxv and its size, exe_fd
    let fields: [UInt64] = [
      start, end, start, end, start, end, start, start, end, start, end, 0,
      UInt64(UInt32(bitPattern: executable)) << 32,
    ]
    let map = fields.withUnsafeBytes { program.place($0) }
    program.call(
      __NR_prctl, 35 /* PR_SET_MM */, 14 /* PR_SET_MM_MAP */, Argument(map), Argument(fields.count * 8), 0,
      for: "setting the fields of its mm")
  }

  func timerIDs() throws(Failure) {
    try inChild { _, program in
      // struct sigevent: value, signo, notify (SIGEV_NONE), 64 bytes altogether
      var event = [UInt8](repeating: 0, count: 64)
      event[12] = 1
      let address = event.withUnsafeBytes { program.place($0) }
      let id: UInt32 = 12345
      program.call(
        __NR_prctl, 77 /* PR_TIMER_CREATE_RESTORE_IDS */, 1, 0, 0, 0, for: "asking for timers by ID")
      program.call(
        __NR_timer_create, Argument(CLOCK_MONOTONIC), Argument(address), Argument(program.place(id)),
        for: "making timer", UInt64(id))
      program.call(__NR_timer_delete, Argument(id), for: "deleting timer", UInt64(id))
    }
  }

  func guardRegions() throws(Failure) {
    try inChild { _, program in
      let memory = program.call(
        __NR_mmap, 0, Argument(2 * pageSize), Argument(PROT_READ | PROT_WRITE),
        Argument(MAP_PRIVATE | MAP_ANONYMOUS), -1, 0, for: "mapping")
      program.call(
        __NR_madvise, .result(memory), Argument(pageSize), 102 /* MADV_GUARD_INSTALL */,
        for: "guarding a page")
    }
  }

  func membarrier() throws(Failure) {
    try inChild { _, program in
      program.call(
        __NR_membarrier, 512 /* MEMBARRIER_CMD_GET_REGISTRATIONS */, 0, 0, for: "asking for registrations")
    }
  }

  /// Runs a program in a child; what stops it is the failure.
  private func inChild(_ compose: (Specimen, inout SyscallProgram) -> Void) throws(Failure) {
    try withChild { child throws(Failure) in
      var program = SyscallProgram(for: child.slot)
      compose(child, &program)
      try child.run(program)
    }
  }
}
