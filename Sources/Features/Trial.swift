import CLinux
import Glibc
import Linux
import SystemPackage
import Tracee

/// The features, each with what is tried to find out. A trial does what a dump or a restore would do, on a child that
/// was made for it.
struct Trial {
  private let deadManSwitch: DeadManSwitch

  init() throws(Failure) {
    deadManSwitch = try about("preparing the dead man's switch") { () throws(Errno) in try DeadManSwitch() }
  }

  func run() -> [Feature] {
    [
      feature("clone3", .restore, clone),
      feature("clone3 set_tid", .restore, setTID),
      feature("clone3 CLONE_NEWPID, PIDs at two levels", .programs(with: "PID namespaces"), nestedPIDs),
      feature("clone3 CLONE_NEWUSER", .programs(with: "user namespaces"), userNamespace),
      feature("a user namespace for the tree", .unprivileged, ownUserNamespace),
      feature("robust futex wake", .both, robustFutex),
      feature("PTRACE_SEIZE", .both, seize),
      feature("syscall through the vDSO", .both, vdso),
      feature("PTRACE_GETREGSET NT_X86_XSTATE", .both, extendedState),
      feature("PTRACE_PEEKSIGINFO", .dump, pendingSignals),
      feature("PTRACE_GET_RSEQ_CONFIGURATION", .dump, rseq),
      feature("PTRACE_SECCOMP_GET_FILTER", .programs(with: "seccomp filters"), seccompFilter),
      feature("PTRACE_O_SUSPEND_SECCOMP", .programs(with: "seccomp filters"), suspendSeccomp),
      feature("/proc of this PID namespace", .both, ownProc),
      feature("/proc/PID/task/TID/children", .dump, children),
      feature("/proc/PID/map_files", .dump, mapFiles),
      feature("/proc/PID/timers", .dump, timers),
      feature("PAGEMAP_SCAN", .dump) { () throws(Failure) in try pagemapScan(guards: false) },
      feature("PAGEMAP_SCAN of guard regions", .programs(with: "guard regions, as new C libraries make them")) {
        () throws(Failure) in try pagemapScan(guards: true)
      },
      feature("kcmp", .dump, compare),
      feature("pidfd_getfd", .dump, duplicate),
      feature("openat2", .restore, openExactly),
      feature("PR_SET_MM_MAP", .restore, mmMap),
      feature("PR_SET_MM_MAP with exe_fd", .restore, mmMapExecutable),
      feature(
        "timer IDs (PR_TIMER_CREATE_RESTORE_IDS)", .programs(with: "timers of timer_create"), timerIDs),
      feature(
        "guard regions (MADV_GUARD_INSTALL)", .programs(with: "guard regions, as new C libraries make them"),
        guardRegions),
      feature("MEMBARRIER_CMD_GET_REGISTRATIONS", .programs(with: "membarrier registrations"), membarrier),
      feature("BPF iterators", .speed("of programs with very many mappings, descriptors or threads"), KernelIterator.tryAll),
      feature("userfaultfd WP async", .later("incremental dumps"), userfaultfd),
    ]
  }

  private func feature(_ name: String, _ need: Feature.Need, _ attempt: () throws(Failure) -> Void) -> Feature {
    do throws(Failure) {
      try attempt()
      return Feature(name: name, need: need, failure: nil)
    } catch {
      return Feature(name: name, need: need, failure: error)
    }
  }

  /// Tries something on a child that is gone afterwards.
  func withChild<T: ~Copyable>(_ body: (Specimen) throws(Failure) -> T) throws(Failure) -> T {
    let child: Specimen
    do throws(Failure) {
      child = try Specimen(deadManSwitch)
    } catch {
      throw Failure("there is no child to try it on: \(error.cause)")
    }
    defer { child.end() }
    return try body(child)
  }

  // MARK: Making tasks

  private func clone() throws(Failure) { try Specimen(deadManSwitch).end() }

  private func setTID() throws(Failure) { try makeAgain(flags: 0, innerPIDs: []) }

  private func nestedPIDs() throws(Failure) { try makeAgain(flags: CLONE_NEWPID, innerPIDs: [1]) }

  private func userNamespace() throws(Failure) { try Specimen(deadManSwitch, flags: CLONE_NEWUSER).end() }

  /// A child makes a user namespace as a restore does, and a PID namespace in it.
  private func ownUserNamespace() throws(Failure) {
    let child = try plainly { () throws(Errno) in Int32(try syscall(__NR_clone, Int(SIGCHLD))) }
    if child == 0 {
      do throws(Failure) {
        try UserNamespace.enterNew()
        try plainly { () throws(Errno) in _ = try syscall(__NR_unshare, Int(CLONE_NEWPID)) }
        _exit(0)
      } catch {
        _exit(error.errno?.rawValue ?? EIO)
      }
    }
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0 && errno == EINTR {}
    if status != 0 { throw Failure("making a user namespace", Errno(rawValue: status >> 8 & 0xff)) }
  }

  /// Makes a child with a PID that another child has just had. Somebody may take it in between: then there is another.
  private func makeAgain(flags: Int32, innerPIDs: [Int32]) throws(Failure) {
    for attempt in 1... {
      let pid = try withChild { $0.pid }
      do throws(Failure) {
        let child = try Specimen(deadManSwitch, flags: flags, setTID: innerPIDs + [pid])
        child.end()
        guard child.pid == pid else { throw Failure("clone3 made PID \(child.pid) instead of \(pid)") }
        return
      } catch {
        if error.errno != .fileExists || attempt == 10 { throw error }
      }
    }
  }

  /// A child dies with a lock in shared memory; the kernel must mark the lock and wake this process.
  private func robustFutex() throws(Failure) { try withChild(robustFutex) }

  private func robustFutex(_ child: Specimen) throws(Failure) {
    var program = SyscallProgram(for: child.slot)
    // struct robust_list_head: next, futex offset, pending; then one node: next, and the lock.
    let list = program.reserve(40)
    program.call(__NR_set_robust_list, Argument(list.address), 24, for: "setting a robust list")
    program.call(__NR_exit_group, 0)
    child.slot.load(program)
    // The slot is mapped here for writing, and the child does not run.
    let local = UnsafeMutableRawBufferPointer(mutating: child.slot.bytes(list))
    let node = list.address + 24
    let locked = UInt32(bitPattern: child.pid) | UInt32(truncatingIfNeeded: FUTEX_WAITERS)
    local.storeBytes(of: node, as: UInt64.self)
    local.storeBytes(of: 8, toByteOffset: 8, as: UInt64.self)
    local.storeBytes(of: list.address, toByteOffset: 24, as: UInt64.self)
    local.storeBytes(of: locked, toByteOffset: 32, as: UInt32.self)
    child.area.startWithoutReturn(child.slot)
    guard let lock = local.baseAddress.map({ $0 + 32 }) else { return }
    var timeout = timespec(tv_sec: 2, tv_nsec: 0)
    while cl_load32(lock) == locked {
      let result = withUnsafeMutablePointer(to: &timeout) {
        cl_syscall(
          Int(__NR_futex), Int(bitPattern: lock), Int(FUTEX_WAIT), Int(locked), Int(bitPattern: $0), 0, 0)
      }
      if result == -Int(ETIMEDOUT) {
        throw Failure("the lock of a dead child was not marked within 2 s", errno: .timedOut)
      }
    }
    let diedBit = UInt32(truncatingIfNeeded: FUTEX_OWNER_DIED)
    guard cl_load32(lock) & diedBit != 0 else {
      throw Failure("the lock of a dead child was not marked FUTEX_OWNER_DIED")
    }
  }

  // MARK: Tracing

  private func seize() throws(Failure) { try withTraced { _, _ throws(Errno) in } }

  private func vdso() throws(Failure) {
    guard let offset = VDSO.syscallOffset else {
      throw Failure("this kernel's vDSO has no syscall instruction", advice: "Boot without vdso=0.")
    }
    try withTraced { child, thread throws(Errno) in
      let buffer = ReadBuffer()
      let mappings = try withExtendedLifetime(buffer) { () throws(Errno) in
        Mapping.parse(try ProcDirectory(pid: child.pid).read("maps", buffer))
      }
      guard let vdso = mappings.first(where: { $0.name.text == "[vdso]" }) else { throw .badAddress }
      let pid = try thread.call(at: vdso.start + offset, __NR_getpid)
      try thread.goHome()
      if pid != UInt64(child.pid) { throw .ioError }
    }
  }

  private func extendedState() throws(Failure) {
    try withTraced { child, _ throws(Errno) in
      try Ptrace.setExtendedState(child.pid, try Ptrace.extendedState(child.pid))
    }
  }

  private func pendingSignals() throws(Failure) {
    try withTraced { child, _ throws(Errno) in
      // Stubs block every signal.
      kill(child.pid, SIGUSR1)
      if try Ptrace.pendingSignals(child.pid, shared: true).count != 1 { throw .noMessage }
    }
  }

  private func rseq() throws(Failure) {
    try withTraced { child, _ throws(Errno) in _ = try Ptrace.rseqConfiguration(child.pid) }
  }

  private func seccompFilter() throws(Failure) { try withChild(seccompFilter) }

  private func seccompFilter(_ child: Specimen) throws(Failure) {
    var program = SyscallProgram(for: child.slot)
    // BPF_RET | BPF_K, SECCOMP_RET_ALLOW; struct sock_fprog: length, pointer
    let filter = program.place((UInt16(6), UInt8(0), UInt8(0), UInt32(0x7fff_0000)))
    let header = program.place((UInt64(1), filter))
    program.call(__NR_prctl, 38 /* PR_SET_NO_NEW_PRIVS */, 1, 0, 0, 0, for: "setting no_new_privs")
    program.call(__NR_seccomp, 1 /* SECCOMP_SET_MODE_FILTER */, 0, Argument(header), for: "setting a filter")
    try child.run(program)
    try traced(child) { _ throws(Errno) in
      if try Ptrace.seccompFilter(child.pid, 0)?.count != 8 { throw .invalidArgument }
    }
  }

  private func suspendSeccomp() throws(Failure) {
    try withChild { child throws(Failure) in
      try plainly { () throws(Errno) in try Ptrace.seize(child.pid, .suspendSeccomp) }
    }
  }

  private func withTraced(_ body: (Specimen, TracedThread) throws(Errno) -> Void) throws(Failure) {
    try withChild { child throws(Failure) in
      try traced(child) { thread throws(Errno) in try body(child, thread) }
    }
  }

  private func traced(_ child: Specimen, _ body: (TracedThread) throws(Errno) -> Void) throws(Failure) {
    try plainly { () throws(Errno) in
      let thread = try TracedThread(seizing: child.pid)
      guard try thread.awaitStop() else { throw .noSuchProcess }
      try body(thread)
      thread.detach()
    }
  }

  // MARK: Looking at tasks

  private func ownProc() throws(Failure) {
    let own = try plainly { () throws(Errno) in try readlink("/proc/self").text }
    guard own == "\(getpid())" else {
      throw Failure("/proc shows PID \(own) for \(getpid())", advice: "Mount the proc of this PID namespace.")
    }
  }

  private func children() throws(Failure) {
    try withChild { child throws(Failure) in
      let thread = try plainly { () throws(Errno) in try syscall(__NR_gettid) }
      let name = "task/\(thread)/children"
      guard try read(name, of: getpid()).text.split(separator: " ").contains("\(child.pid)") else {
        throw Failure("/proc/\(getpid())/\(name) does not have the child \(child.pid)")
      }
    }
  }

  private func mapFiles() throws(Failure) {
    try withChild { child throws(Failure) in
      let (start, end) = (child.area.address, child.area.address + UInt64(child.area.size))
      let name = "map_files/\(String(start, radix: 16))-\(String(end, radix: 16))"
      try plainly { () throws(Errno) in _ = try ProcDirectory(pid: child.pid).open(name, O_RDWR) }
    }
  }

  private func timers() throws(Failure) {
    try withChild { child throws(Failure) in _ = try read("timers", of: child.pid) }
  }

  private func read(_ name: String, of pid: Int32) throws(Failure) -> [UInt8] {
    let buffer = ReadBuffer()
    return try withExtendedLifetime(buffer) { () throws(Failure) in
      try plainly { () throws(Errno) in [UInt8](try ProcDirectory(pid: pid).read(name, buffer)) }
    }
  }

  private func pagemapScan(guards: Bool) throws(Failure) {
    try withChild { child throws(Failure) in try pagemapScan(child, guards: guards) }
  }

  private func pagemapScan(_ child: Specimen, guards: Bool) throws(Failure) {
    let pagemap = try plainly { () throws(Errno) in try ProcDirectory(pid: child.pid).open("pagemap") }
    var region = cl_page_region()
    var argument = cl_pm_scan_arg()
    argument.size = UInt64(MemoryLayout<cl_pm_scan_arg>.size)
    argument.start = child.area.address
    argument.end = child.area.address + UInt64(child.area.size)
    argument.vec_len = 1
    argument.category_anyof_mask = UInt64(CL_PAGE_IS_PRESENT) | (guards ? UInt64(CL_PAGE_IS_GUARD) : 0)
    argument.return_mask = argument.category_anyof_mask
    let found = try withUnsafeMutablePointer(to: &region) { region throws(Failure) in
      argument.vec = UInt64(UInt(bitPattern: region))
      return try withUnsafeMutablePointer(to: &argument) { argument throws(Failure) in
        try plainly { () throws(Errno) in
          try syscall(__NR_ioctl, Int(pagemap.rawValue), Int(CL_PAGEMAP_SCAN), Int(bitPattern: argument))
        }
      }
    }
    guard found == 1 else { throw Failure("the scan did not find the child's pages") }
  }

  /// A link of /proc, which openat would follow.
  private func openExactly() throws(Failure) {
    do throws(Errno) {
      _ = try Descriptor.open(Array("/proc/self/exe".utf8), O_RDONLY, resolving: .noLinks)
    } catch {
      if error == .tooManySymbolicLinkLevels { return }
      throw Failure("openat2 RESOLVE_NO_SYMLINKS", error)
    }
    throw Failure("openat2 follows symbolic links")
  }

  private func compare() throws(Failure) {
    try withChild { child throws(Failure) in
      let order = try plainly { () throws(Errno) in
        try kcmp(getpid(), child.pid, .file, Int(child.memory), Int(child.memory))
      }
      guard order == 0 else { throw Failure("kcmp says that a descriptor and its inherited copy differ") }
    }
  }

  private func duplicate() throws(Failure) {
    try withChild { child throws(Failure) in
      try plainly { () throws(Errno) in
        let process = try pidfdOpen(child.pid)
        _ = try pidfdGetfd(process.rawValue, child.memory)
      }
    }
  }

  private func userfaultfd() throws(Failure) {
    try plainly { () throws(Errno) in
      let fd = Descriptor(Int32(try syscall(__NR_userfaultfd, Int(O_CLOEXEC))))
      // struct uffdio_api: api, features, ioctls. UFFD_FEATURE_PAGEFAULT_FLAG_WP, UFFD_FEATURE_WP_ASYNC
      var api = (UInt64(0xaa), UInt64(1 | 1 << 15), UInt64(0))
      _ = try withUnsafeMutablePointer(to: &api) { api throws(Errno) in
        try syscall(__NR_ioctl, Int(fd.rawValue), 0xc018_aa3f /* UFFDIO_API */, Int(bitPattern: api))
      }
    }
  }

  /// An errno without more words: the feature's name says what was tried.
  private func plainly<T: ~Copyable>(_ body: () throws(Errno) -> T) throws(Failure) -> T {
    do {
      return try body()
    } catch {
      throw Failure(error.nameAndText, errno: error)
    }
  }
}
