import Glibc
import Linux
import Resources
import SystemPackage
import Tracee

/// Threads that have left a namespace of their process (man 2 unshare, setns). A thread is born in those of its process, so it can
/// have been only one of several threads.
enum ThreadNamespaces {
  /// What a single thread can leave, besides the kinds that can be restored: those are in ``NamespaceTable``. Users are left by the
  /// whole process only.
  private static let kinds = ["net", "cgroup", "pid_for_children", "time_for_children"]

  static func objections(_ task: DumpedTask, _ threads: [TracedThread]) throws(Failure) -> [String] {
    guard threads.count > 1 else { return [] }
    return try about("\(task.description): reading its threads' namespaces") { () throws(Errno) in
      let own = try task.directory.open("ns", O_RDONLY | O_DIRECTORY)
      let expected = try kinds.map { (name) throws(Errno) in try link(name, at: own.rawValue) }
      var objections: [String] = []
      for thread in threads where thread.tid != task.pid {
        let folder = try task.directory.open("task/\(thread.tid)/ns", O_RDONLY | O_DIRECTORY)
        for (kind, expected) in zip(kinds, expected) {
          let its = try link(kind, at: folder.rawValue)
          if its == expected { continue }
          objections.append(
            "\(task.description): thread \(thread.tid) has left its process's namespace, for \(kind) \(its.text) (unshare-ns)")
        }
      }
      return objections
    }
  }

  /// Empty where the kernel lacks the kind, or a namespace for children has no init yet.
  private static func link(_ name: String, at folder: Int32) throws(Errno) -> [UInt8] {
    do {
      return try readlink(at: folder, name)
    } catch {
      guard error == .noSuchFileOrDirectory else { throw error }
      return []
    }
  }
}
