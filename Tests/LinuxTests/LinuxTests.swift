import Glibc
import Testing

@testable import Linux

/// A read that ends where the buffer does is not the last one. The kernel's symbols are many short records that stay the same.
@Test func filesOfProcAreReadToTheirEnd() throws {
  func count(longestRecord: Int?) throws -> Int {
    let file = try Descriptor.open("/proc/kallsyms", O_RDONLY)
    return try ReadBuffer().readAll(file.rawValue, longestRecord: longestRecord).count
  }
  let whole = try count(longestRecord: nil)
  #expect(whole > 100_000)
  #expect(try count(longestRecord: 512) == whole)
}
