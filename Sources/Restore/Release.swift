import CLinux
import Checkpoint
import Glibc
import Linux
import Resources
import SystemPackage
import Tracee

/// The last step: every thread gets its registers, every process loses the executors' area, and all are let go at once.
///
/// Two threads of this process trace one half of many each: who attaches to a thread is the only one it obeys (man 2 ptrace).
struct Release {
  let construction: Construction
  private let tasks: [RestoredTask]
  private let mine: Share
  private let theirs: Share
  private let companion = Companion()

  /// A thread, and the process that it belongs to, which has none to show while it rests: then it is the only one.
  private struct Place {
    var task: RestoredTask
    var thread: RestoredThread?

    var isLeader: Bool { thread?.isLeader ?? true }
    var tid: UInt32 { thread?.tid ?? task.pid }
    var tracerTID: Int32 { thread?.tracerTID ?? task.tracerPID }
    var isAttached: Bool { thread?.isAttached ?? false }
  }

  /// The threads that one of the two traces.
  private struct Share {
    var places: [Place] = []
    /// Processes whose leader is among them.
    var processes: [RestoredTask] { places.compactMap { $0.isLeader ? $0.task : nil } }
  }

  /// For fewer threads a second one of this process is not worth its making.
  private static let leastToShare = 24

  init(_ construction: Construction) {
    self.construction = construction
    tasks = construction.plan.tasks.filter { !$0.isZombie }
    let places = tasks.flatMap { task in
      task.threads.isEmpty ? [Place(task: task)] : task.threads.map { Place(task: task, thread: $0) }
    }
    var (mine, theirs) = (Share(), Share())
    for (index, place) in places.enumerated() {
      // Some this thread has attached to already.
      if places.count < Self.leastToShare || index < places.count / 2 || place.isAttached {
        mine.places.append(place)
      } else {
        theirs.places.append(place)
      }
    }
    (self.mine, self.theirs) = (mine, theirs)
  }

  func run() throws(Failure) {
    guard let first = tasks.first else { return }
    if !theirs.places.isEmpty { companion.hire() }
    try each(Self.stop)
    let extendedStateSize = try about("\(first.description): reading its extended registers") { () throws(Errno) in
      try Ptrace.extendedState(first.tracerPID).count
    }
    // All threads are stopped: nobody needs the area any more.
    let construction = construction
    try each { (share) throws(Failure) in
      let processes = share.processes
      for first in stride(from: 0, to: processes.count, by: Self.batchSize) {
        try Self.takeArea(from: processes[first..<min(first + Self.batchSize, processes.count)], construction)
      }
      let images = TaskImages(construction.restore)
      for place in share.places { try Self.dress(place, extendedStateSize, construction.plan, images) }
    }
    try letGo()
  }

  /// Does something with both shares at the same time, each in the thread that traces it.
  private func each(_ body: @escaping (Share) throws(Failure) -> Void) throws(Failure) {
    if theirs.places.isEmpty { return try body(mine) }
    let theirs = theirs
    try companion.share({ () throws(Failure) in try body(mine) }, { () throws(Failure) in try body(theirs) })
  }

  private static func stop(_ share: Share) throws(Failure) {
    for place in share.places { try attach(place) }
    for place in share.places {
      try about("\(place.task.description): stopping thread \(place.tid)") { () throws(Errno) in try stop(place.tracerTID) }
    }
  }

  private static func attach(_ place: Place) throws(Failure) {
    try about("\(place.task.description): attaching to thread \(place.tid)") { () throws(Errno) in
      if !place.isAttached { try Ptrace.seize(place.tracerTID, [.exitKill, .traceSysGood]) }
      place.thread?.isAttached = true
      try Ptrace.interrupt(place.tracerTID)
    }
  }

  private static func stop(_ tid: Int32) throws(Errno) {
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

  /// The leader of each process unmaps the area.
  private static func takeArea(from tasks: ArraySlice<RestoredTask>, _ construction: Construction) throws(Failure) {
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

  private static func dress(_ place: Place, _ extendedStateSize: Int, _ plan: Plan, _ images: TaskImages) throws(Failure) {
    let task = place.task
    // Threads of one process may be in both shares: only who has none rests, and is in one.
    if place.thread == nil { try plan.wake(task, .thread, images) }
    defer { if place.thread == nil { plan.rest(task) } }
    let core = place.thread?.core ?? task.core
    guard let info = core.threadInfo else { return }
    let tid = place.tracerTID
    try about("\(task.description): giving thread \(place.tid) its registers") { () throws(Errno) in
      try Ptrace.setExtendedState(tid, CPUState.extendedState(of: info, size: extendedStateSize))
      let mask = core.threadCore?.blkSigset ?? core.tc?.blkSigset ?? 0
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
      let leaveStopped = construction.plan.restore.options.leaveStopped
      try each { (share) throws(Failure) in Self.allowToLive(share, leaveStopped: leaveStopped) }
      guardian.dismiss()
      let top = construction.topPID
      try each { (share) throws(Failure) in Self.detach(share, top: top) }
    } else {
      Self.allowToLive(mine, leaveStopped: construction.plan.restore.options.leaveStopped)
      Self.detach(mine, top: construction.topPID)
    }
  }

  private static func allowToLive(_ share: Share, leaveStopped: Bool) {
    for place in share.places {
      try? Ptrace.setOptions(place.tracerTID, [])
      guard place.isLeader else { continue }
      let task = place.task
      if task.isStopped {
        kill(task.tracerPID, Int32(task.core.tc?.stopSigno ?? UInt32(SIGSTOP)))
      } else if leaveStopped {
        kill(task.tracerPID, SIGSTOP)
      }
    }
  }

  /// `top` is this process's own child, whose end somebody else wants to know.
  private static func detach(_ share: Share, top: Int32) {
    var ended: [Place] = []
    for place in share.places {
      // An error says that it was killed in this moment, maybe by a brother who runs already.
      do throws(Errno) { try Ptrace.detach(place.tracerTID) } catch { ended.append(place) }
    }
    // Its parent hears of its end when its tracer has; and a leader ends when its threads have (kernel/exit.c: wait_task_zombie).
    for leaders in [false, true] {
      for place in ended where place.isLeader == leaders && place.tracerTID != top {
        _ = cl_syscall(Int(__NR_wait4), Int(place.tracerTID), 0, 0x4000_0000 /* __WALL */, 0, 0, 0)
      }
    }
  }
}
