import CLinux
import Glibc
import Linux
import ProcessTree
import Resources
import SystemPackage
import Tracee

/// The flag in a zombie's status which says that it left a core file (man 2 wait, WCOREDUMP). The kernel sets it when it has written
/// one, and for nothing else (fs/coredump.c: coredump_finish). So the stub that becomes the zombie leaves a core file: of the
/// little memory that it has nothing is written, and the folder is a file system that goes away by itself.
enum CoreFlag {
  /// Appends what makes the next signal leave a core file; false if that cannot be had here.
  static func append(to program: inout SyscallProgram, _ restore: RestoreContext) -> Bool {
    guard let folder = folder(program.slotAddress, restore) else { return false }
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(4 /* RLIMIT_CORE */), &limit)
    let most = UInt64(limit.rlim_max)
    let fd = program.call(
      __NR_pidfd_getfd, Argument(restore.service.tracer), Argument(folder), 0, for: "getting a folder for a core file")
    program.call(__NR_fchdir, .result(fd), for: "entering a folder for a core file")
    // None of the memory's kinds is to be in it (man 5 core); without the filter it has more.
    let name = program.place(path: Array("/proc/self/coredump_filter".utf8))
    let filter = program.call(__NR_openat, Argument(AT_FDCWD), Argument(name), Argument(O_WRONLY), 0, mayFail: true)
    program.call(__NR_write, .result(filter), Argument(program.place(UInt8(ascii: "0"))), 1, mayFail: true)
    program.call(__NR_prctl, 4 /* PR_SET_DUMPABLE */, 1, 0, 0, 0, mayFail: true)
    program.call(__NR_prlimit64, 0, 4, Argument(program.place((most, most))), 0, mayFail: true)
    return true
  }

  /// Says which zombies have come back without the flag.
  static func warn(_ plan: Plan) {
    let buffer = ReadBuffer()
    for (recorded, task) in zip(plan.tree.tasks, plan.tasks) {
      guard case .zombie(let status) = recorded.state, status.dumpedCore else { continue }
      // Gone already: whoever took its status has it.
      guard let directory = try? ProcDirectory(pid: task.tracerPID), let text = try? directory.read("stat", buffer),
        let stat = withExtendedLifetime(buffer, { ProcStat(text) }), stat.state == UInt8(ascii: "Z"),
        stat.exitCode & 0x80 == 0
      else { continue }
      plan.restore.warnings.append(
        "\(task.description): its status comes back without the core flag: \(obstacle() ?? "the kernel made no core file")")
    }
  }

  /// A descriptor of an empty file system in memory that is mounted nowhere (man 2 fsopen); it is gone when all are closed.
  /// Each zombie has its own: core files can have the same name, and of two that are made at the same time one fails.
  private static func folder(_ slot: UInt64, _ restore: RestoreContext) -> Int32? {
    let name = "core file of slot \(slot)"
    guard obstacle() == nil else { return nil }
    do throws(Errno) {
      let context = Descriptor(Int32(try syscall(__NR_fsopen, path: "tmpfs", 1 /* FSOPEN_CLOEXEC */)))
      try syscall(__NR_fsconfig, Int(context.rawValue), 6 /* FSCONFIG_CMD_CREATE */, 0, 0, 0)
      restore.keep(
        Descriptor(Int32(try syscall(__NR_fsmount, Int(context.rawValue), 1 /* FSMOUNT_CLOEXEC */, 0))), as: name)
    } catch {
      return nil
    }
    return restore.kept(name)
  }

  /// Why there can be no core file in a folder of ours; `nil` if there can.
  private static func obstacle() -> String? {
    let buffer = ReadBuffer()
    let pattern =
      withExtendedLifetime(buffer) { () -> String in
        guard let file = try? Descriptor.open("/proc/sys/kernel/core_pattern"), let text = try? buffer.readAll(file.rawValue)
        else { return "" }
        return [UInt8](text).text
      }.split(separator: "\n").first ?? ""
    // Somebody else's program or socket, or a folder that is not ours.
    if pattern.isEmpty || pattern.hasPrefix("|") || pattern.hasPrefix("@") || pattern.contains("/") {
      return "/proc/sys/kernel/core_pattern sends core files elsewhere (\(pattern))"
    }
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(4), &limit)
    return limit.rlim_max < 1 << 20 ? "the hard limit on core files is \(limit.rlim_max) bytes (ulimit -Hc)" : nil
  }
}
