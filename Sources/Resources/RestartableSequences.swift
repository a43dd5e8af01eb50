import CLinux
import Checkpoint
import Linux
import SystemPackage
import Tracee

/// A thread's registration of restartable sequences (man 2 rseq). It is set again by ``ThreadAttributes``.
public enum RestartableSequences {
  /// `nil` if the thread has none.
  public static func record(_ thread: TracedThread) throws(Failure) -> RseqEntry? {
    let configuration = try about("task \(thread.tid): reading its rseq registration") { () throws(Errno) in
      try Ptrace.rseqConfiguration(thread.tid)
    }
    guard configuration.pointer != 0 else { return nil }
    var entry = RseqEntry()
    entry.rseqAbiPointer = configuration.pointer
    entry.rseqAbiSize = configuration.size
    entry.signature = configuration.signature
    return entry
  }
}
