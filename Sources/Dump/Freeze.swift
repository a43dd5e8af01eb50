import CLinux
import Glibc
import Linux
import Resources
import SystemPackage
import Tracee

/// Stops every thread of a tree, without a signal that the program or its parent could notice.
struct Freezer {
  private(set) var tasks: [DumpedTask] = []
  /// Main threads that were asked to stop, and not waited for yet.
  private var begun: [Int32: TracedThread] = [:]
  private let buffer = ReadBuffer()
  /// Of so many processes the folders in `/proc` are held open; what else a dump opens has to find room too.
  private let mostHeld = DescriptorRoom.limit / 2
  /// Is told of each thread and process that has stopped.
  private let glances: Glances

  init(_ glances: Glances) { self.glances = glances }

  /// Freezes the tree under `root`. When this throws, whatever was frozen has been let go.
  ///
  /// A stopped task makes no new threads and children, so the walk goes over `task/` and `children` of each process
  /// until a pass finds nothing new.
  mutating func freeze(root: Int32, timeout: Int) throws(Failure) {
    Ptrace.limitWaiting(seconds: timeout)
    defer { Ptrace.limitWaiting(seconds: 0) }
    do throws(Failure) {
      try freeze(pid: root, parent: 0)
      glances.complete()
    } catch {
      glances.end()
      release()
      throw error
    }
  }

  /// Detaches from everything; the tree runs on.
  mutating func release() {
    for thread in begun.values where (try? thread.awaitStop()) == true { thread.detach() }
    begun = [:]
    for task in tasks { for thread in task.traced { thread.detach() } }
  }

  /// Forgets what was frozen: others let it go.
  mutating func handOver() { tasks = [] }

  private mutating func freeze(pid: Int32, parent: Int32) throws(Failure) {
    let directory: ProcDirectory
    do {
      directory = tasks.count < mostHeld ? try ProcDirectory(pid: pid) : ProcDirectory(unheld: pid)
    } catch {
      if parent != 0, error == .noSuchFileOrDirectory { return }
      throw Self.explain(error, pid)
    }
    guard let (threads, stat) = try seizeThreads(pid: pid, parent: parent, directory) else { return }
    let task = DumpedTask(pid: pid, parent: parent, directory: directory, stat: stat, traced: threads)
    tasks.append(task)
    glances.append(task)
    // The children of each thread; a frozen process gets no new ones, except orphans of its own descendants, when it is
    // a subreaper or an init: those come while a descendant exits, so the list is read until it stays the same.
    var known: Set<Int32> = []
    while true {
      let children = try children(of: task)
      let new = children.filter { known.insert($0).inserted }
      if new.isEmpty { return }
      // All are asked before the first is waited for. Where that fails, it fails again when it is that one's turn.
      for child in new where !isThreaded(ProcDirectory(unheld: child).folder) { begun[child] = try? TracedThread(seizing: child) }
      for child in new { try freeze(pid: child, parent: pid) }
    }
  }

  private static func explain(_ error: Errno, _ pid: Int32) -> Failure {
    guard error == .noSuchFileOrDirectory || error == .noSuchProcess else { return Failure("task \(pid): reading /proc/\(pid)", error) }
    return Failure("task \(pid)", error, advice: "There is no such process; give the PID of a running one.")
  }

  private func children(of task: DumpedTask) throws(Failure) -> [Int32] {
    if isKnownChildless(task) { return [] }
    var list: [Int32] = []
    for thread in task.traced { list += try children(of: thread.tid, task) }
    return list
  }

  /// Every thread has a list of children. Where there are more threads than processes on the whole system, it is quicker to ask each
  /// process for its parent. `false`: it may have children, or not all processes are to be seen (man 5 proc, hidepid).
  private func isKnownChildless(_ task: DumpedTask) -> Bool {
    // /proc has a link for each process (fs/proc/root.c: proc_root_getattr).
    guard task.traced.count > 16, let links = try? fstat(at: AT_FDCWD, "/proc").st_nlink, links < task.traced.count,
      let folder = try? Descriptor.open("/proc", O_RDONLY | O_DIRECTORY),
      let processes = try? buffer.numbers(in: folder.rawValue), processes.contains(1), processes.contains(task.pid)
    else { return false }
    return processes.allSatisfy { pid in
      guard let file = try? Descriptor.open(at: folder.rawValue, "\(pid)/stat"),
        let text = try? buffer.readAll(file.rawValue, longestRecord: 512)
      else { return false }
      return ProcStat(text).map { $0.ppid != task.pid } ?? false
    }
  }

  private func children(of tid: Int32, _ task: DumpedTask) throws(Failure) -> [Int32] {
    do {
      return try task.directory.children(of: tid, buffer)
    } catch {
      throw Failure("task \(tid): reading its children", error)
    }
  }

  /// All threads of a process, the leader first, and its state when all of them had stopped; no threads for a zombie. `nil`: the
  /// process is gone altogether.
  private mutating func seizeThreads(pid: Int32, parent: Int32, _ directory: borrowing ProcDirectory)
    throws(Failure) -> (threads: [TracedThread], stat: ProcStat)?
  {
    var threads: [TracedThread] = []
    var known: Set<Int32> = []
    var found: ProcStat?
    do throws(Failure) {
      // Most processes have one thread, which has the PID for its ID. Of several the leader is the last: a signal to a process that ignores
      // it, such as SIGCHLD, is queued nevertheless as soon as its leader is traced (kernel/signal.c: sig_ignored), and a thread that is not
      // traced would wake up for it and find none; its epoll_wait would say EINTR.
      var tids = [pid]
      // One that was asked to stop already had one thread.
      if begun[pid] == nil, isThreaded(directory.folder) {
        tids = try about("task \(pid): listing its threads") { () throws(Errno) in try directory.numbers(in: "task", buffer) }
        tids.sort { $1 == pid && $0 != pid }
      }
      while true {
        let new = tids.filter { !known.contains($0) }
        if new.isEmpty { break }
        var seized: [TracedThread] = []
        for tid in new {
          known.insert(tid)
          do throws(Errno) {
            if let thread = begun.removeValue(forKey: tid) {
              seized.append(thread)
            } else {
              seized.append(try TracedThread(seizing: tid))
            }
          } catch {
            // EPERM is also the kernel's answer for a zombie (kernel/ptrace.c: ptrace_attach).
            if try isZombie(tid, directory) { continue }
            if error == .noSuchProcess { continue }
            for thread in seized { threads.append(thread) }
            throw Self.seizeFailure(pid, tid, error)
          }
        }
        for thread in seized {
          let stopped = try about(
            "task \(pid): stopping thread \(thread.tid)",
            advice:
              "It does not stop while it waits for a device, a file system, or a child of vfork; try again, or give --timeout more seconds."
          ) { () throws(Errno) in try thread.awaitStop() }
          guard stopped else { continue }
          threads.append(thread)
          glances.append(thread: thread.tid, of: Glance.Place(pid: pid, folder: directory.folder, isZombie: false, threadCount: tids.count))
        }
        do throws(Errno) {
          found = ProcStat(try directory.read("stat", buffer))
          if let last = tasks.last { found?.hold(like: last.stat, ofVeryMany: tasks.count > Batches.most) }
          // Stopped threads make no others: when there are no more than those, that is all.
          if !threads.isEmpty, found?.threadCount == threads.count { break }
          tids = try directory.numbers(in: "task", buffer)
        } catch {
          if parent != 0, threads.isEmpty { return nil }
          throw Self.explain(error, pid)
        }
      }
      guard found != nil else { throw Failure("task \(pid): /proc/\(pid)/stat is not in the kernel's format") }
    } catch {
      for thread in threads { thread.detach() }
      throw error
    }
    guard let state = found else { return nil }
    if threads.isEmpty { return ([], state) }
    // The leader first, then the others as the kernel lists them, which is how they are looked at later.
    if let leader = threads.firstIndex(where: { $0.tid == pid }) {
      threads.insert(threads.remove(at: leader), at: 0)
    } else {
      for thread in threads { thread.detach() }
      throw Failure(
        "task \(pid): its main thread has exited while others run (dead thread group leader)",
        advice: "This is not supported yet; CRIU refuses it as well.")
    }
    return (threads, state)
  }

  /// A directory of threads has a link for each (fs/proc/base.c: proc_task_getattr).
  private func isThreaded(_ folder: ProcFolder) -> Bool { (try? folder.status("task").st_nlink).map { $0 > 3 } ?? false }

  private func isZombie(_ tid: Int32, _ directory: borrowing ProcDirectory) throws(Failure) -> Bool {
    do {
      guard let stat = ProcStat(try directory.read("task/\(tid)/stat", buffer)) else { return false }
      return stat.state == UInt8(ascii: "Z") || stat.state == UInt8(ascii: "X")
    } catch {
      return true  // gone since
    }
  }

  private static func seizeFailure(_ pid: Int32, _ tid: Int32, _ error: Errno) -> Failure {
    let cause = "task \(pid): attaching to thread \(tid): PTRACE_SEIZE"
    guard error == .notPermitted || error == .permissionDenied else { return Failure(cause, error) }
    if let tracer = tracer(of: tid), tracer != 0 {
      return Failure(
        "task \(pid): thread \(tid) is already traced by process \(tracer)",
        advice: "End that debugger first.",
        errno: error)
    }
    return Failure(
      cause, error,
      advice: "The process belongs to another user or is protected; run as root (CAP_SYS_PTRACE).")
  }

  private static func tracer(of tid: Int32) -> Int32? {
    let buffer = ReadBuffer()
    guard let directory = try? ProcDirectory(pid: tid), let text = try? directory.read("status", buffer)
    else {
      return nil
    }
    return ProcStatus(text).tracerPID
  }
}
