import Glibc
import Linux

/// Items that are made in order by the tracer and its companion, one each at a time, and taken in order by the tracer. The companion
/// goes on making them while the tracer does something else with those that it took.
final class Lookahead<Item> {
  typealias Make = (_ index: Int, _ reader: Glance.Reader) throws(Failure) -> Item

  private let work: Work
  private let companion: Companion
  private let reader = Glance.Reader()
  private var isShared = false

  /// - Parameters:
  ///   - count: how many there are to make.
  ///   - make: makes one, on either thread.
  init(count: Int, _ companion: Companion, make: @escaping Make) {
    work = Work(count: count, make)
    self.companion = companion
    guard count > 1, companion.isHired else { return }
    isShared = true
    let work = work
    let reader = Glance.Reader()
    companion.start { () throws(Failure) in work.makeAhead(reader) }
  }

  deinit { end() }

  /// The next item; `nil` behind the last. The companion is free again when the last has been taken.
  func next() throws(Failure) -> Item? {
    guard let result = work.take(reader) else { return nil }
    if work.isDone { end() }
    return try result.get()
  }

  private func end() {
    guard isShared else { return }
    isShared = false
    work.stop()
    companion.settle()
  }

  /// What both threads see. The mutex is held for nothing but the numbers and the list.
  private final class Work: @unchecked Sendable {
    /// How many items may wait to be taken: what is known of them takes memory.
    private static var limit: Int { 64 }

    private let count: Int
    private let make: Make
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var nextToMake = 0
    private var nextToTake = 0
    private var made: [Int: Result<Item, Failure>] = [:]

    init(count: Int, _ make: @escaping Make) {
      self.count = count
      self.make = make
      pthread_mutex_init(mutex, nil)
      pthread_cond_init(changed, nil)
    }

    deinit {
      pthread_cond_destroy(changed)
      pthread_mutex_destroy(mutex)
      changed.deallocate()
      mutex.deallocate()
    }

    /// The companion's part, until all are made or it is stopped.
    func makeAhead(_ reader: Glance.Reader) {
      pthread_mutex_lock(mutex)
      while nextToMake < count {
        if nextToMake < nextToTake + Self.limit { makeNext(reader) } else { pthread_cond_wait(changed, mutex) }
      }
      pthread_mutex_unlock(mutex)
    }

    /// The tracer's: while the one that it wants is being made it makes others.
    func take(_ reader: Glance.Reader) -> Result<Item, Failure>? {
      pthread_mutex_lock(mutex)
      defer { pthread_mutex_unlock(mutex) }
      guard nextToTake < count else { return nil }
      while true {
        if let item = made.removeValue(forKey: nextToTake) {
          nextToTake += 1
          pthread_cond_signal(changed)
          return item
        }
        if nextToMake < min(count, nextToTake + Self.limit) { makeNext(reader) } else { pthread_cond_wait(changed, mutex) }
      }
    }

    var isDone: Bool { nextToTake == count }

    func stop() {
      pthread_mutex_lock(mutex)
      nextToMake = count
      pthread_cond_signal(changed)
      pthread_mutex_unlock(mutex)
    }

    private func makeNext(_ reader: Glance.Reader) {
      let index = nextToMake
      nextToMake += 1
      pthread_mutex_unlock(mutex)
      let result: Result<Item, Failure>
      do throws(Failure) { result = .success(try make(index, reader)) } catch { result = .failure(error) }
      pthread_mutex_lock(mutex)
      made[index] = result
      pthread_cond_signal(changed)
    }
  }
}
