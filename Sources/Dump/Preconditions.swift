import CLinux
import Glibc
import Linux
import Resources
import SystemPackage

/// What can be said of a wish to dump before anything is touched.
enum Preconditions {
  static func check(_ options: DumpOptions) throws(Failure) {
    try Proc.check()
    let pid = options.pid
    guard pid > 0 else {
      throw Failure("PID \(pid) is not a process", advice: "Give a positive PID with --pid.")
    }
    let buffer = ReadBuffer()
    guard access("/proc/\(pid)", F_OK) == 0 else {
      throw Failure(
        "there is no process \(pid)", advice: "Give the PID of a running process with --pid.",
        errno: .noSuchProcess)
    }
    let directory = try about("task \(pid)") { () throws(Errno) in try ProcDirectory(pid: pid) }
    let text = try about("task \(pid)") { () throws(Errno) in try directory.read("stat", buffer) }
    guard let stat = ProcStat(text) else { throw Failure("/proc/\(pid)/stat is not in the kernel's format") }
    let name = "task \(pid) (\(stat.comm.text))"
    if stat.isKernelThread {
      throw Failure("\(name) is a kernel thread", advice: "Only user processes can be dumped.")
    }
    if stat.state == UInt8(ascii: "Z"), stat.threadCount > 1 {
      throw Failure(
        "\(name): its main thread has exited while others run (dead thread group leader)",
        advice: "This is not supported yet; CRIU refuses it as well.")
    }
    if stat.state == UInt8(ascii: "Z") || stat.state == UInt8(ascii: "X") {
      throw Failure(
        "\(name) is a zombie: it has exited",
        advice: "Its parent only has to wait for it; there is nothing to dump.")
    }
    let status = try about(name) { () throws(Errno) in ProcStatus(try directory.read("status", buffer)) }
    if status.tgid != pid {
      throw Failure(
        "\(pid) is a thread of process \(status.tgid)", advice: "Give the process: --pid \(status.tgid).")
    }
    if status.tracerPID != 0 {
      throw Failure(
        "\(name) is already traced by process \(status.tracerPID)", advice: "End that debugger first.",
        errno: .notPermitted)
    }
    try checkRights()
    var ancestor = getpid()
    while ancestor > 0 {
      if ancestor == pid {
        throw Failure(
          "\(name) is \(pid == getpid() ? "swift-restore itself" : "an ancestor of swift-restore")",
          advice: "Run swift-restore from outside of the tree.")
      }
      guard let parent = try? ProcDirectory(pid: ancestor), let text = try? parent.read("stat", buffer),
        let stat = ProcStat(text)
      else { break }
      ancestor = stat.ppid
    }
  }

  /// What is mapped is found by links that the kernel shows to few, and never by what a user namespace gives
  /// (fs/proc/base.c: proc_map_files_get_link).
  private static func checkRights() throws(Failure) {
    if Capabilities.own.isDisjoint(with: [.checkpointRestore, .sysAdmin]) {
      throw Failure(
        "this user may not look at what processes map: it has neither CAP_CHECKPOINT_RESTORE nor CAP_SYS_ADMIN",
        advice: "Nothing was changed. Dump as root, or after setcap cap_checkpoint_restore+ep on swift-restore, by root.",
        errno: .notPermitted)
    }
    if !UserNamespace.isInitial {
      throw Failure(
        "in a user namespace nobody may look at what processes map, whatever the capabilities",
        advice: "Nothing was changed. Dump from outside, as root or with CAP_CHECKPOINT_RESTORE.", errno: .notPermitted)
    }
  }
}
