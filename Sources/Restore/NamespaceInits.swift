import CLinux
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

/// PID 1 of a namespace that was made for the tree: it lives on with the tree, as a process of two pages (CLinux/init.S) that takes
/// away who dies and passes signals on to the root.
///
/// With `--detach` it ends when nobody of the tree is left. Otherwise it ends with the root, as the tool does that waits for it, and
/// if the tool is killed, the kernel ends the whole namespace.
struct NamespaceInits {
  let construction: Construction
  private let helpers: [(actor: ForkSchedule.Actor, pid: Int32)]

  init(_ construction: Construction) {
    self.construction = construction
    helpers = construction.plan.schedule.helpers.filter { $0.purpose == .namespaceInit }.compactMap { helper in
      let actor = ForkSchedule.Actor.helper(helper.id)
      return construction.tracerPID(of: actor).map { (actor, $0) }
    }
  }

  /// Has each give up what it holds of the tool, and stops it where its own code begins.
  func prepare() throws(Failure) {
    for (actor, pid) in helpers {
      guard let slot = construction.slot(of: actor) else { continue }
      try construction.run([("the namespace's init", ProgramSequence(slot, program(in: slot)))])
      try about("the namespace's init (PID \(pid))") { () throws(Errno) in
        try Ptrace.seize(pid, [.exitKill])
        try Ptrace.interrupt(pid)
        try stop(pid)
        var registers = try Ptrace.registers(pid).executing(code, slot: code + 2 * UInt64(pageSize))
        registers.user.rbx = UInt64(rootPID(seenBy: actor))
        registers.user.rbp = construction.restore.options.detach ? 0 : 1
        registers.user.r12 = construction.area.address
        registers.user.r15 = UInt64(construction.area.size)
        try Ptrace.setRegisters(pid, registers)
      }
    }
  }

  private func stop(_ pid: Int32) throws(Errno) {
    while true {
      switch try Ptrace.wait(pid) {
      case .event: return
      case .exited: throw .noSuchProcess
      case .trap, .signal, .syscall: try Ptrace.cont(pid)
      }
    }
  }

  /// The tree runs; from here on its init does too. An error would say that somebody has killed it in this moment.
  func letGo() {
    for (_, pid) in helpers {
      try? Ptrace.setOptions(pid, [])
      try? Ptrace.detach(pid)
    }
  }

  /// Its code lies where the stub's first page was, a page to write to follows.
  private var code: UInt64 { construction.plan.stubAddress }

  private func program(in slot: Slot) -> SyscallProgram {
    var program = SyscallProgram(for: slot)
    let page = Argument(pageSize)
    program.call(
      __NR_mmap, Argument(code), Argument(2 * pageSize), Argument(PROT_READ | PROT_WRITE),
      Argument(MAP_PRIVATE | MAP_ANONYMOUS | 0x10_0000 /* MAP_FIXED_NOREPLACE */), -1, 0, for: "mapping its memory at", code)
    let bytes = UnsafeRawBufferPointer(start: cl_init_code(), count: cl_init_size())
    let place = program.place(bytes)
    program.call(
      __NR_pread64, Argument(construction.restore.service.area), Argument(code), Argument(bytes.count),
      Argument(place - construction.area.address), expect: Int64(bytes.count), for: "reading its code")
    program.call(__NR_mprotect, Argument(code), page, Argument(PROT_READ | PROT_EXEC), for: "protecting its code at", code)
    program.call(__NR_prctl, 15 /* PR_SET_NAME */, Argument(program.place(path: Array("restore-init".utf8))))
    if !construction.restore.options.detach {
      program.call(__NR_prctl, 1 /* PR_SET_PDEATHSIG */, Argument(SIGKILL), for: "asking to end with the tool")
    }
    if construction.restore.privileges.areLimited {
      // It needs none of what a user namespace gives (man 2 capset).
      let header: (UInt32, Int32) = (0x2008_0522, 0)  // _LINUX_CAPABILITY_VERSION_3, this thread
      program.call(
        __NR_capset, Argument(program.place(header)), Argument(program.place((UInt64(0), UInt64(0), UInt64(0)))),
        for: "giving up its capabilities")
    }
    program.call(__NR_chdir, Argument(program.place(path: Array("/".utf8))), for: "leaving the working directory")
    program.call(__NR_close_range, 0, Argument(UInt32.max), 0, for: "closing its descriptors")
    return program
  }

  private func rootPID(seenBy actor: ForkSchedule.Actor) -> Int32 {
    let sighting = Sighting(construction.plan.tasks[0].tracerPID)
    guard case .helper(let id) = actor,
      let level = construction.plan.tree.namespaces.first(where: {
        $0.id == construction.plan.schedule.helpers[id.index].pidNamespace
      })?.level
    else { return 0 }
    return sighting.number(at: level - construction.plan.levels.tool)
  }
}
