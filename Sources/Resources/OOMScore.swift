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

  /// Written from outside. Lowering it below what was inherited needs CAP_SYS_RESOURCE: without it the task keeps the
  /// value, with a warning.
  public static func restore(_ task: RestoredTask, inherited: Int32, _ restore: RestoreContext)
    throws(Failure)
  {
    guard let wanted = task.core.tc?.oomScoreAdj, wanted != inherited else { return }
    do throws(Errno) {
      let file = try Descriptor.open("/proc/\(task.tracerPID)/oom_score_adj", O_WRONLY)
      let text = Array(String(wanted).utf8)
      let result = text.withUnsafeBytes {
        cl_syscall(Int(__NR_write), Int(file.rawValue), Int(bitPattern: $0.baseAddress), $0.count, 0, 0, 0)
      }
      if result < 0 { throw Errno(rawValue: Int32(-result)) }
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
