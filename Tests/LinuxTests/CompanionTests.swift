import Glibc
import Synchronization
import Testing

@testable import Linux

/// A job that is started before somebody has waited for the last one is done after that.
@Test func theCompanionLosesNoJob() throws {
  let companion = Companion()
  try #require(companion.hire())
  let done = Mutex<[Int]>([])
  companion.start {
    usleep(50_000)
    done.withLock { $0.append(1) }
  }
  companion.start { done.withLock { $0.append(2) } }
  try companion.wait()
  #expect(done.withLock { $0 } == [1, 2])
}
