import CLinux
import Glibc
import Synchronization
import SystemPackage

/// A second thread of the tool, for work that asks for no tracer: reading `/proc`, writing images. One job at a time.
///
/// It takes no signal; what is sent to the process is the tracer's.
public final class Companion {
  public typealias Job = () throws(Failure) -> Void

  /// What both threads see. Each semaphore hands it over to the other.
  private final class Desk: @unchecked Sendable {
    let work = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
    let done = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
    var job: Job?
    var failure: Failure?
    var isClosing = false
    /// Where the tracer runs.
    let cpu = currentProcessor()

    init() {
      sem_init(work, 0, 0)
      sem_init(done, 0, 0)
    }

    deinit {
      for semaphore in [work, done] {
        sem_destroy(semaphore)
        semaphore.deallocate()
      }
    }

    func serve() {
      keepAway(from: cpu)
      while true {
        sem_post(done)
        Self.wait(work)
        if isClosing { return }
        perform()
      }
    }

    /// The kernel would often have a woken thread wait for the processor of who woke it, while another one idles.
    private func keepAway(from cpu: Int32) {
      var set: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0, 0, 0)
      withUnsafeMutableBytes(of: &set) { set in
        let size = cl_syscall(Int(__NR_sched_getaffinity), 0, set.count, Int(bitPattern: set.baseAddress), 0, 0, 0)
        guard cpu >= 0, size > 0, cpu / 8 < size else { return }
        set[Int(cpu / 8)] &= ~(1 << UInt8(cpu % 8))
        // Where this leaves none, nothing is changed.
        _ = cl_syscall(Int(__NR_sched_setaffinity), 0, size, Int(bitPattern: set.baseAddress), 0, 0, 0)
      }
    }

    func perform() {
      do throws(Failure) {
        try job?()
      } catch {
        failure = error
      }
      job = nil
    }

    static func wait(_ semaphore: UnsafeMutablePointer<sem_t>) {
      while sem_wait(semaphore) != 0 {}  // EINTR
    }
  }

  private let desk = Desk()
  private var thread: pthread_t?
  private var isBusy = false

  /// Without ``hire()`` every job is done at once by who starts it, which is quicker for a few.
  public init() {}

  public var isHired: Bool { thread != nil }

  /// Makes the thread, if there is none yet and there can be one.
  public func hire() {
    guard thread == nil else { return }
    var all = sigset_t()
    var before = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &before)
    defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
    thread = startThread { [desk] in desk.serve() }
    if thread != nil { Desk.wait(desk.done) }
  }

  deinit {
    guard let thread else { return }
    if isBusy { Desk.wait(desk.done) }
    desk.isClosing = true
    sem_post(desk.work)
    pthread_join(thread, nil)
  }

  /// Starts a job; the one before must have been waited for. Whatever it uses belongs to it until ``wait()``.
  public func start(_ job: @escaping Job) {
    desk.job = job
    guard thread != nil else { return desk.perform() }
    isBusy = true
    sem_post(desk.work)
  }

  /// Waits for the job that was started last, whatever comes of it: another failure is told.
  public func settle() {
    do throws(Failure) { try wait() } catch {}
  }

  /// Waits for the job that was started last, and throws what it threw.
  public func wait() throws(Failure) {
    if isBusy {
      Desk.wait(desk.done)
      isBusy = false
    }
    guard let failure = desk.failure else { return }
    desk.failure = nil
    throw failure
  }
}

extension Companion {
  /// Does two halves of a job: the caller's own, and the other one. Both have ended when this returns or throws. While the companion
  /// is busy the caller does both.
  public func share(_ mine: () throws(Failure) -> Void, _ theirs: @escaping Job) throws(Failure) {
    if isBusy {
      try mine()
      return try theirs()
    }
    start(theirs)
    do throws(Failure) {
      try mine()
    } catch {
      settle()
      throw error
    }
    try wait()
  }
}

/// Numbers from 0 on, each drawn once, by whichever thread asks first.
public final class Turns: Sendable {
  private let count: Int
  private let drawn = Atomic(0)

  public init(_ count: Int) { self.count = count }

  /// The next one; `nil` when all have been drawn.
  public func next() -> Int? {
    let turn = drawn.add(1, ordering: .relaxed).oldValue
    return turn < count ? turn : nil
  }
}

/// The processor that this thread runs on; -1 if the kernel does not tell (man 2 getcpu).
private func currentProcessor() -> Int32 {
  var cpu: UInt32 = 0
  let result = withUnsafeMutablePointer(to: &cpu) { cl_syscall(Int(__NR_getcpu), Int(bitPattern: $0), 0, 0, 0, 0, 0) }
  return result == 0 ? Int32(cpu) : -1
}
