import Checkpoint
import Linux
import Tracee

/// A thread that is asked for others too: what they have of their own, the kernel's list tells (``KernelThread``).
public final class ThreadModel {
  private let noted: KernelThread
  private let scheduling: [UInt64]
  /// What it has said.
  private var answer: ThreadCoreEntry?

  private init(_ noted: KernelThread, _ scheduling: [UInt64]) {
    self.noted = noted
    self.scheduling = scheduling
  }

  /// So many kinds of threads are told apart; of more, each thread is asked.
  private static let most = 32

  /// Divides the threads of a process: those that have to be asked, by their places, some of them for others too, and those others.
  public static func divide(_ threads: [DumpedThread]) -> (
    asked: [(place: Int, model: ThreadModel?)], others: [(place: Int, model: ThreadModel)]
  ) {
    var models: [ThreadModel] = []
    var asked: [(Int, ThreadModel?)] = []
    var others: [(Int, ThreadModel)] = []
    others.reserveCapacity(threads.count)
    for (place, thread) in threads.enumerated() {
      guard let noted = thread.noted, let scheduling = Scheduling.seen(of: thread.traced.tid) else {
        asked.append((place, nil))
        continue
      }
      if let model = models.first(where: { $0.noted.isLike(noted) && $0.scheduling == scheduling }) {
        others.append((place, model))
      } else {
        let model = models.count < most ? ThreadModel(noted, scheduling) : nil
        if let model { models.append(model) }
        asked.append((place, model))
      }
    }
    return (asked, others)
  }

  /// Notes what it has said.
  public func take(_ core: borrowing CoreEntry) { answer = core.threadCore }

  /// Adds what a thread like it would have said to what was found out about that from outside.
  public func complete(_ thread: DumpedThread) throws(Failure) {
    guard var core = answer, let noted = thread.noted else {
      throw Failure("thread \(thread.traced.tid): the one that was asked for it too has not answered")
    }
    let own = thread.core.thread
    core.blkSigset = own.blkSigset
    core.signalsP = own.signalsP
    core.rseqEntry = own.rseqEntry
    core.comm = noted.name
    core.sas = AlternateStack.entry(noted)
    core.futexRla = noted.robustList
    thread.core.threadCore = core
    thread.core.threadInfo?.clearTidAddr = noted.clearTID
  }
}
