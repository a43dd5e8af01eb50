import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// How readily the kernel ends the process when memory runs out (man 5 proc_pid_oom_score_adj).
public enum OOMScore {
  public static func record(_ task: DumpedTask) throws(Failure) -> Int32 {
    try about("\(task.description): reading oom_score_adj") { () throws(Errno) in
      let file = try task.directory.open("oom_score_adj")
      var text: (UInt64, UInt64) = (0, 0)
      return try withUnsafeMutableBytes(of: &text) { bytes throws(Errno) in
        _ = try syscall(__NR_read, Int(file.rawValue), Int(bitPattern: bytes.baseAddress), bytes.count)
        var cursor = ByteCursor(UnsafeRawBufferPointer(bytes))
        return Int32(truncatingIfNeeded: cursor.decimal())
      }
    }
  }

  /// The kernel knows how far down a user may go (fs/proc/base.c: __set_oom_adj); what this process may, its children may.
  static func concede(_ core: inout CoreEntry) -> [String] {
    let own = own
    guard let wanted = core.tc?.oomScoreAdj, wanted < own else { return [] }
    do throws(Errno) {
      try write(wanted, of: getpid())
      try write(own, of: getpid())
      return []
    } catch {
      core.tc?.oomScoreAdj = own
      return ["oom_score_adj \(wanted), here \(own): needs CAP_SYS_RESOURCE"]
    }
  }

  private static func write(_ value: Int32, of pid: Int32) throws(Errno) {
    let file = try Descriptor.open("/proc/\(pid)/oom_score_adj", O_WRONLY)
    let text = Array(String(value).utf8)
    let result = text.withUnsafeBytes {
      cl_syscall(Int(__NR_write), Int(file.rawValue), Int(bitPattern: $0.baseAddress), $0.count, 0, 0, 0)
    }
    if result < 0 { throw Errno(rawValue: Int32(-result)) }
  }

  /// Written from outside. Lowering it below what was inherited needs CAP_SYS_RESOURCE: without it the task keeps the
  /// value, with a warning.
  public static func restore(_ task: RestoredTask, inherited: Int32, _ restore: RestoreContext)
    throws(Failure)
  {
    guard let wanted = task.core.tc?.oomScoreAdj, wanted != inherited else { return }
    do throws(Errno) {
      try write(wanted, of: task.tracerPID)
    } catch {
      guard error == .permissionDenied else {
        throw Failure("task \(task.pid): setting oom_score_adj to \(wanted)", error)
      }
      restore.warnings.append(
        "task \(task.pid): oom_score_adj stays at \(inherited) instead of \(wanted): needs CAP_SYS_RESOURCE")
    }
  }

  /// This process's own value, which stubs inherit.
  public static var own: Int32 {
    let buffer = ReadBuffer()
    guard let directory = try? ProcDirectory(pid: getpid()),
      let text = try? directory.read("oom_score_adj", buffer)
    else {
      return 0
    }
    var cursor = ByteCursor(text)
    return withExtendedLifetime(buffer) { Int32(truncatingIfNeeded: cursor.decimal()) }
  }
}
