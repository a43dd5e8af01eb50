import Glibc

/// The pieces of a long text on their way from the thread that reads it to the one that parses it.
///
/// What the pieces hold is one thread's at a time, as the semaphores say; which piece is next, each thread notes for itself.
final class Relay: @unchecked Sendable {
  /// How many bytes a piece has at most, if no record is longer; and how many may wait.
  private static let size = 256 << 10
  private static let count = 4

  private final class Piece {
    var bytes: [UInt8] = []
  }

  private let pieces = (0..<Relay.count).map { _ in Piece() }
  /// The piece that is being filled, and the one that is next to be parsed.
  private var filling = 0
  private var parsing = 0
  private let free = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
  private let full = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)

  init() {
    // One is being filled from the start.
    sem_init(free, 0, UInt32(Self.count - 1))
    sem_init(full, 0, 0)
  }

  deinit {
    for semaphore in [free, full] {
      sem_destroy(semaphore)
      semaphore.deallocate()
    }
  }

  /// Hands on some whole lines.
  func send(_ lines: UnsafeRawBufferPointer) {
    if !pieces[filling].bytes.isEmpty, pieces[filling].bytes.count + lines.count > Self.size { handOver() }
    pieces[filling].bytes.append(contentsOf: lines)
  }

  /// There are no more.
  func end() {
    if !pieces[filling].bytes.isEmpty { handOver() }
    // An empty piece is the last.
    sem_post(full)
  }

  private func handOver() {
    sem_post(full)
    filling = (filling + 1) % Self.count
    Self.wait(free)
  }

  /// Takes what is sent, to the end. `meanwhile` is done whenever there is nothing to take; if it is `false`, that is waited for.
  func receive(meanwhile: () -> Bool, _ body: (UnsafeRawBufferPointer) -> Void) {
    while true {
      while sem_trywait(full) != 0 {
        if meanwhile() { continue }
        Self.wait(full)
        break
      }
      let piece = pieces[parsing]
      if piece.bytes.isEmpty { return }
      piece.bytes.withUnsafeBytes { body($0) }
      piece.bytes.removeAll(keepingCapacity: true)
      parsing = (parsing + 1) % Self.count
      sem_post(free)
    }
  }

  private static func wait(_ semaphore: UnsafeMutablePointer<sem_t>) {
    while sem_wait(semaphore) != 0 {}  // EINTR
  }
}
