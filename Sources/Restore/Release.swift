import CLinux
import Checkpoint
import Glibc
import Linux
import Resources
import SystemPackage
import Tracee

/// The last step: every thread gets its registers, every process loses the executors' area, and all are let go at once.
struct Release {
  let construction: Construction
  private let tasks: [RestoredTask]
  /// Bytes of this CPU's extended state.
  private var extendedStateSize = 0

  init(_ construction: Construction) {
    self.construction = construction
    tasks = construction.plan.tasks.filter { !$0.isZombie }
  }

  mutating func run() throws(Failure) {
    for task in tasks {
      for thread in task.threads { try attach(thread, task) }
    }
    for task in tasks {
      for thread in task.threads {
        try about("\(task.description): stopping thread \(thread.tid)") { () throws(Errno) in
          try stop(thread.tracerTID)
        }
      }
    }
    if let first = tasks.first {
      extendedStateSize = try about("\(first.description): reading its extended registers") { () throws(Errno) in
        try Ptrace.extendedState(first.tracerPID).count
      }
    }
    for first in stride(from: 0, to: tasks.count, by: Self.batchSize) {
      let batch = tasks[first..<min(first + Self.batchSize, tasks.count)]
      try takeArea(from: batch)
      for task in batch {
        for thread in task.threads { try dress(thread, task) }
      }
    }
    try letGo()
  }

  private func attach(_ thread: RestoredThread, _ task: RestoredTask) throws(Failure) {
    try about("\(task.description): attaching to thread \(thread.tid)") { () throws(Errno) in
      if !thread.isAttached { try Ptrace.seize(thread.tracerTID, [.exitKill, .traceSysGood]) }
      thread.isAttached = true
      try Ptrace.interrupt(thread.tracerTID)
    }
  }

  private func stop(_ tid: Int32) throws(Errno) {
    while true {
      switch try Ptrace.wait(tid) {
      case .event: return
      case .exited: throw .noSuchProcess
      case .trap, .signal, .syscall: try Ptrace.cont(tid)
      }
    }
  }

  /// How many processes unmap the executors' area at the same time.
  private static let batchSize = 32

  /// All threads are stopped: nobody needs the area any more, and the leader unmaps it.
  private func takeArea(from tasks: ArraySlice<RestoredTask>) throws(Failure) {
    guard let offset = VDSO.syscallOffset else { return }
    func each(_ body: (_ leader: Int32, _ task: RestoredTask) throws(Errno) -> Void) throws(Failure) {
      for task in tasks {
        try about("\(task.description): unmapping the executors' area") { () throws(Errno) in try body(task.tracerPID, task) }
      }
    }
    try each { (leader, task) throws(Errno) in
      let call = try Ptrace.registers(leader).calling(
        __NR_munmap, at: construction.vdsoAddress(of: task) + offset, construction.plan.areaAddress,
        UInt64(construction.area.size))
      try Ptrace.setRegisters(leader, call)
      try Ptrace.beginCall(leader)
    }
    try each { (leader, _) throws(Errno) in
      try Ptrace.awaitCallStop(leader)
      try Ptrace.beginCall(leader)
    }
    try each { (leader, _) throws(Errno) in
      try Ptrace.awaitCallStop(leader)
      let result = try Ptrace.registers(leader).result
      if result < 0 { throw Errno(rawValue: Int32(-result)) }
    }
  }

  private func dress(_ thread: RestoredThread, _ task: RestoredTask) throws(Failure) {
    guard let info = thread.core.threadInfo else { return }
    let tid = thread.tracerTID
    try about("\(task.description): giving thread \(thread.tid) its registers") { () throws(Errno) in
      try Ptrace.setExtendedState(tid, CPUState.extendedState(of: info, size: extendedStateSize))
      let mask = thread.core.threadCore?.blkSigset ?? thread.core.tc?.blkSigset ?? 0
      try Ptrace.setSignalMask(tid, mask)
      try Ptrace.setRegisters(tid, CPUState.registers(of: info))
    }
  }

  /// Until the guardian is dismissed the death of this process ends everything; from then on the whole tree runs, with it or without.
  /// A tree of one thread has no need of one: its option changes in an instant.
  private func letGo() throws(Failure) {
    if tasks.count > 1 || tasks.contains(where: { $0.threads.count > 1 }) {
      let guardian = try about("starting the guardian of the release") { () throws(Errno) in
        try Guardian(killing: tasks.map(\.tracerPID))
      }
      allowToLive()
      guardian.dismiss()
      detach()
    } else {
      allowToLive()
      detach()
    }
  }

  private func allowToLive() {
    for task in tasks {
      for thread in task.threads { try? Ptrace.setOptions(thread.tracerTID, []) }
      if task.isStopped {
        kill(task.tracerPID, Int32(task.core.tc?.stopSigno ?? UInt32(SIGSTOP)))
      } else if construction.plan.restore.options.leaveStopped {
        kill(task.tracerPID, SIGSTOP)
      }
    }
  }

  private func detach() {
    // An error says that somebody killed the task in this moment.
    for task in tasks { for thread in task.threads { try? Ptrace.detach(thread.tracerTID) } }
  }
}
