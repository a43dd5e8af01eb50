import Glibc
import Linux
import SystemPackage

/// A file of a process in /proc, such as `/proc/PID/status` or the directory `/proc/PID/task` (man 5 proc_pid). It tells of the very
/// process that it was opened for, so it must be a process of the tree, and is opened when that is there again.
struct ProcessFile {
  let pid: Int32
  /// What follows the PID, with a slash; empty for the process's directory.
  let rest: String

  /// `nil` if it is another file.
  init?(_ name: [UInt8]) {
    let path = name.text
    guard path.hasPrefix("/proc/") else { return nil }
    let digits = path.dropFirst(6).prefix { $0.isASCII && $0.isNumber }
    rest = String(path.dropFirst(6 + digits.count))
    guard let pid = Int32(digits), rest.isEmpty || rest.hasPrefix("/") else { return nil }
    self.pid = pid
  }

  /// Why a file cannot be dumped; `nil` if it can, or is no file of a process.
  static func objection(_ file: DumpedFile, _ options: DumpOptions) -> String? {
    guard let process = ProcessFile(file.link) else { return nil }
    let subject = "a file in /proc of process \(process.pid)"
    guard options.tree.contains(process.pid) else {
      let isAlive = kill(process.pid, 0) == 0 || errno != ESRCH
      return "\(subject), which \(isAlive ? "is not of the tree" : "has ended") (procfs)"
    }
    // The numbers in another instance of proc may be those of another PID namespace.
    guard let own = try? fstat(at: AT_FDCWD, "/proc"), own.st_dev == file.stat.st_dev else {
      return "\(subject) of another PID namespace (procfs)"
    }
    let parts = process.rest.split(separator: "/")
    let inner = parts.first == "task" ? parts.dropFirst(2) : parts[...]
    // What describes a descriptor or a mapping is not there when descriptors are made.
    return inner.count > 1 && ["fdinfo", "map_files", "fd"].contains(inner.first) ? "\(subject) (procfs)" : nil
  }

  /// The path by which this process opens a recorded file: the same, but for the numbers of processes. `ENOENT` for a thread's.
  static func path(_ name: [UInt8], _ restore: RestoreContext) throws(Errno) -> [UInt8] {
    guard let process = ProcessFile(name), let task = restore.tasks[UInt32(process.pid)] else { return name }
    if task.tracerPID == process.pid { return name }
    // Threads have other numbers too, which nobody has noted.
    if process.rest.hasPrefix("/task/") { throw .noSuchFileOrDirectory }
    return Array("/proc/\(task.tracerPID)\(process.rest)".utf8)
  }
}
