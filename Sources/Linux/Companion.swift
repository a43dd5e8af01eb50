import CLinux
import Glibc
import Synchronization
import SystemPackage

/// A second thread of the tool: it reads `/proc` and images, writes images, and traces its share of a release. One job at a time.
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
    /// Where it may run.
    var processors: ProcessorSet?

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
      processors?.use()
      while true {
        sem_post(done)
        Self.wait(work)
        if isClosing { return }
        perform()
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
  /// Where the tracer could run before there was a companion.
  private var processors: ProcessorSet?

  /// Whether the tracer leaves it a processor. Who makes others does not: they would have what the kernel notes of such a wish for good
  /// (kernel/fork.c: dup_user_cpus_ptr).
  private let isGivenRoom: Bool

  /// Without ``hire()`` every job is done at once by who starts it, which is quicker for a few.
  public init(givingRoom: Bool = false) { isGivenRoom = givingRoom }

  public var isHired: Bool { thread != nil }

  /// Whether nothing that was started is still being done.
  public var isFree: Bool {
    noteEnd()
    return !isBusy
  }

  /// Makes the thread, if there is none yet and there can be one. `false` if there is none.
  @discardableResult
  public func hire() -> Bool {
    guard thread == nil else { return true }
    var all = sigset_t()
    var before = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_SETMASK, &all, &before)
    defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
    keepApart()
    thread = startThread { [desk] in desk.serve() }
    if thread != nil { Desk.wait(desk.done) } else { useAll() }
    return thread != nil
  }

  private func useAll() {
    processors?.use()
    processors = nil
  }

  /// The kernel would often have who is woken wait for the processor of who woke it, while another one idles. So the companion stays away
  /// from the tracer's processor, and the tracer from one of the others.
  private func keepApart() {
    guard let all = ProcessorSet.own, let here = ProcessorSet.current, let other = all.first(but: here) else { return }
    desk.processors = all.without(here)
    guard isGivenRoom else { return }
    processors = all
    all.without(other).use()
  }

  deinit {
    useAll()
    guard let thread else { return }
    if isBusy { Desk.wait(desk.done) }
    desk.isClosing = true
    sem_post(desk.work)
    pthread_join(thread, nil)
  }

  /// Starts a job, when the one before has ended. Whatever it uses belongs to it until ``wait()``.
  public func start(_ job: @escaping Job) {
    if isBusy { Desk.wait(desk.done) }
    isBusy = false
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
    noteEnd()
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

  private func noteEnd() { if isBusy, sem_trywait(desk.done) == 0 { isBusy = false } }

  /// Whether there is one that would begin at once with its part of a job. A job of its own finds that it has no time.
  public var hasTime: Bool {
    noteEnd()
    return isHired && !isBusy
  }

  /// Does something with each item, by turns with the caller.
  public func shareEach<Item>(of items: [Item], _ body: @escaping (Item) throws(Failure) -> Void) throws(Failure) {
    let turns = Turns(items.count)
    func work() throws(Failure) { while let turn = turns.next() { try body(items[turn]) } }
    try share({ () throws(Failure) in try work() }, { () throws(Failure) in try work() })
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
