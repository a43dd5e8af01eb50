import Glibc
import Linux

/// Items that are made in order by the tracer and its companion, one each at a time, and taken in order by the tracer. The companion
/// goes on making them while the tracer does something else: finds out that there are more, or works with those that it took.
final class Lookahead<Order, Item> {
  typealias Make = (_ order: Order, _ reader: Glance.Reader) throws(Failure) -> Item

  private let work: Work
  private let companion: Companion
  private let reader: Glance.Reader
  private var isShared = false

  /// `make` makes an item, on either thread; `weigh` says how many things an item holds of which there may be many.
  init(_ companion: Companion, weigh: @escaping (Item) -> Int, _ make: @escaping Make) {
    work = Work(make, weigh)
    self.companion = companion
    reader = Glance.Reader(helpedBy: companion)
  }

  deinit { end() }

  /// One more item; a long one may be begun before others.
  func append(_ order: Order, isLong: Bool = false) {
    work.append(order, isLong: isLong)
    guard !isShared, companion.hasTime else { return }
    isShared = true
    let work = work
    let reader = Glance.Reader()
    companion.start { () throws(Failure) in work.makeAhead(reader) }
  }

  /// There will be no more than those that were appended.
  func complete() { work.complete() }

  /// The next item; `nil` behind the last. The companion is free again when the last has been taken.
  func next() throws(Failure) -> Item? {
    guard let result = work.take(reader) else {
      end()
      return nil
    }
    if work.isDone { end() }
    return try result.get()
  }

  /// The rest is not wanted.
  func end() {
    reader.forget()
    guard isShared else { return }
    isShared = false
    work.stop()
    companion.settle()
  }

  /// What both threads see. The mutex is held for nothing but the numbers and the lists.
  private final class Work: @unchecked Sendable {
    /// How many items may wait to be taken: what is known of them takes memory.
    private static var limit: Int { 512 }
    /// And how much they may hold; the next few are made in any case.
    private static var mostHeld: Int { 1 << 14 }
    private static var least: Int { 2 }

    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private let make: Make
    private let weigh: (Item) -> Int
    /// Until it is made.
    private var wanted: [Order?] = []
    private var isComplete = false
    /// Items that are to be made before others, and those that were.
    private var long: [Int] = []
    private var drawn: Set<Int> = []
    private var nextToMake = 0
    private var nextToTake = 0
    private var made: [Int: Result<Item, Failure>] = [:]
    private var held = 0

    init(_ make: @escaping Make, _ weigh: @escaping (Item) -> Int) {
      self.make = make
      self.weigh = weigh
      pthread_mutex_init(mutex, nil)
      pthread_cond_init(changed, nil)
    }

    deinit {
      pthread_cond_destroy(changed)
      pthread_mutex_destroy(mutex)
      changed.deallocate()
      mutex.deallocate()
    }

    private func locked<T>(_ body: () -> T) -> T {
      pthread_mutex_lock(mutex)
      defer { pthread_mutex_unlock(mutex) }
      return body()
    }

    func append(_ order: Order, isLong: Bool) {
      locked {
        if isLong { long.append(wanted.count) }
        wanted.append(order)
        pthread_cond_signal(changed)
      }
    }

    func complete() {
      locked {
        isComplete = true
        pthread_cond_signal(changed)
      }
    }

    /// The companion's part, until all are made or it is stopped.
    func makeAhead(_ reader: Glance.Reader) {
      locked {
        while true {
          if let index = draw() {
            makeItem(index, reader)
          } else if isComplete, nextToMake == wanted.count {
            return
          } else {
            pthread_cond_wait(changed, mutex)
          }
        }
      }
    }

    /// The tracer's, when it knows of all: while the one that it wants is being made it makes others.
    func take(_ reader: Glance.Reader) -> Result<Item, Failure>? {
      locked {
        guard nextToTake < wanted.count else { return nil }
        while true {
          if let item = made.removeValue(forKey: nextToTake) {
            nextToTake += 1
            held -= weight(of: item)
            pthread_cond_signal(changed)
            return item
          }
          if let index = draw() { makeItem(index, reader) } else { pthread_cond_wait(changed, mutex) }
        }
      }
    }

    var isDone: Bool { nextToTake == wanted.count }

    func stop() {
      locked {
        isComplete = true
        nextToMake = wanted.count
        long = []
        pthread_cond_signal(changed)
      }
    }

    private func draw() -> Int? {
      let isFull = held >= Self.mostHeld
      if !isFull, let index = long.popLast() {
        drawn.insert(index)
        return index
      }
      while nextToMake < min(wanted.count, nextToTake + (isFull ? Self.least : Self.limit)) {
        nextToMake += 1
        if drawn.remove(nextToMake - 1) == nil { return nextToMake - 1 }
      }
      return nil
    }

    private func makeItem(_ index: Int, _ reader: Glance.Reader) {
      guard let order = wanted[index].take() else { return }
      pthread_mutex_unlock(mutex)
      let result: Result<Item, Failure>
      do throws(Failure) { result = .success(try make(order, reader)) } catch { result = .failure(error) }
      pthread_mutex_lock(mutex)
      made[index] = result
      held += weight(of: result)
      pthread_cond_signal(changed)
    }

    private func weight(of result: Result<Item, Failure>) -> Int { if case .success(let item) = result { weigh(item) } else { 0 } }
  }
}
