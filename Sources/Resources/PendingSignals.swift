import CLinux
import Checkpoint
import Linux
import SystemPackage
import Tracee

/// Signals that were sent and not taken yet, with their full siginfo, in the order of their queues
/// (man 2 ptrace PTRACE_PEEKSIGINFO, rt_sigqueueinfo).
public enum PendingSignals {
  /// What waits for one thread, or for the process as a whole. The whole tree has stopped: others of it send signals until they have, also
  /// to those that had stopped before.
  public static func record(_ thread: TracedThread, shared: Bool) throws(Failure) -> SignalQueueEntry {
    var queue = SignalQueueEntry()
    let signals = try about("task \(thread.tid): reading its pending signals") { () throws(Errno) in
      try Ptrace.pendingSignals(thread.tid, shared: shared)
    }
    queue.signals = signals.map {
      var entry = SiginfoEntry()
      entry.siginfo = $0
      return entry
    }
    return queue
  }

  /// A process may send itself any siginfo, also one that says the kernel sent it (kernel/signal.c: do_rt_sigqueueinfo).
  public static func restore(_ thread: RestoredThread, _ sequence: inout ProgramSequence) throws(Failure) {
    for entry in thread.core.thread.signalsP?.signals ?? [] {
      let signal = try number(entry, thread)
      sequence.makeRoom(calls: 1, bytes: entry.siginfo.count)
      let info = sequence.current.place(entry.siginfo)
      sequence.current.call(
        __NR_rt_tgsigqueueinfo, Argument(thread.pid), Argument(thread.tid), Argument(signal), Argument(info),
        for: "queueing signal for the thread", UInt64(signal))
    }
    guard thread.isLeader else { return }
    for entry in thread.core.task.signalsS?.signals ?? [] {
      let signal = try number(entry, thread)
      sequence.makeRoom(calls: 1, bytes: entry.siginfo.count)
      let info = sequence.current.place(entry.siginfo)
      sequence.current.call(
        __NR_rt_sigqueueinfo, Argument(thread.pid), Argument(signal), Argument(info),
        for: "queueing signal for the process", UInt64(signal))
    }
  }

  private static func number(_ entry: SiginfoEntry, _ thread: RestoredThread) throws(Failure) -> Int32 {
    guard entry.siginfo.count == 128 else {
      throw Failure(
        "core-\(thread.tid).img: a pending signal's siginfo has \(entry.siginfo.count) bytes, not 128")
    }
    return entry.siginfo.withUnsafeBytes { $0.loadUnaligned(as: Int32.self) }
  }
}
