import CLinux
import Checkpoint
import Linux
import SystemPackage
import Tracee

/// A thread's registration of restartable sequences (man 2 rseq). It is set again by ``ThreadAttributes``.
public enum RestartableSequences {
  /// `nil` if the thread has none.
  public static func record(_ thread: TracedThread, _ noted: KernelThread? = nil) throws(Failure) -> RseqEntry? {
    var registration = noted?.rseq
    if registration == nil {
      let told = try about("task \(thread.tid): reading its rseq registration") { () throws(Errno) in
        try Ptrace.rseqConfiguration(thread.tid)
      }
      registration = (told.pointer, told.size, told.signature)
    }
    guard let (address, size, signature) = registration, address != 0 else { return nil }
    var entry = RseqEntry()
    entry.rseqAbiPointer = address
    entry.rseqAbiSize = size
    entry.signature = signature
    return entry
  }
}
