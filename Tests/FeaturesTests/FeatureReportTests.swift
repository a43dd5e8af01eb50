import Features
import Glibc
import Linux
import Testing

/// A trial makes children and traces them: one at a time.
@Suite(.serialized) struct FeatureReportTests {
  @Test("A report can be made, every feature has a name of its own, and no child is left behind")
  func report() throws {
    let report = try FeatureReport()
    #expect(Set(report.features.map(\.name)).count == report.features.count)
    #expect(try stubs() == [])
  }

  @Test("With root's privileges, dump and restore find all that they need", .enabled(if: geteuid() == 0))
  func root() throws {
    let report = try FeatureReport()
    #expect(report.missingForDump.map(\.name) == [])
    #expect(report.missingForRestore.map(\.name) == [])
  }

  @Test("Capabilities are called as in capabilities(7), and held if this process has them")
  func capabilities() throws {
    let report = try FeatureReport()
    let resource = try #require(report.capabilities.first { $0.name == "CAP_SYS_RESOURCE" })
    #expect(resource.isHeld == Capabilities.own.contains(.sysResource))
    #expect(report.capabilities.allSatisfy { $0.name.hasPrefix("CAP_") })
  }

  /// The children of this process that are what a trial makes.
  private func stubs() throws -> [Int32] {
    let buffer = ReadBuffer()
    return try withExtendedLifetime(buffer) {
      let own = try ProcDirectory(pid: getpid())
      var all: [Int32] = []
      for thread in try own.numbers(in: "task", buffer) {
        // A thread may have ended since, and a child too.
        guard let text = try? own.read("task/\(thread)/children", buffer) else { continue }
        all += [UInt8](text).text.split(separator: " ").compactMap { Int32($0) }
      }
      return all.filter { pid in
        (try? ProcDirectory(pid: pid).link("exe").text)?.hasPrefix("/memfd:swift-restore-stub") == true
      }
    }
  }
}
