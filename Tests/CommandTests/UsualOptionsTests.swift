import ArgumentParser
import Testing

@testable import swift_restore

/// What is read without the argument parser is what it would have read.
@Suite struct UsualOptionsTests {
  private static let right = [
    ["-D", "a"], ["--images", "a b"], ["--images-dir", "/a"], ["--images=a"], ["-W", "a"], ["--work-dir=c=d"], ["-o", "a"],
    ["--log-file", "=b"], ["--verbosity", "4"], ["--verbosity=0"], ["-t", "1"], ["--tree", "+3"], ["--pid=12"], ["-R"],
    ["--leave-running"], ["-d"], ["--detach"], ["--restore-detached"],
  ]
  private static let others = [
    "-D", "--images", "-o", "-t", "--verbosity=5", "--verbosity=x", "--no-detach", "--json", "--thp=auto", "a", "-5", "0x10", "", "-", "--",
    "=", "-Da", "-dR", "--images=", "-D=a", "--detach=1", "--verbosity=-1",
  ]

  @Test func sameAsTheArgumentParsers() throws {
    var random = SystemRandomNumberGenerator()
    var (dumps, restores) = (0, 0)
    while dumps < 100 || restores < 100 {
      var words = (0..<Int.random(in: 0...4, using: &random)).flatMap { _ in Self.right.randomElement(using: &random) ?? [] }
      if Int.random(in: 0..<4, using: &random) == 0 {
        words.insert(Self.others.randomElement(using: &random) ?? "", at: Int.random(in: 0...words.count, using: &random))
      }
      if let request = UsualOptions.dump(words[...]) {
        let parsed = try DumpCommand.parse(words).request
        #expect(String(reflecting: request) == String(reflecting: parsed), "\(words)")
        dumps += 1
      }
      if let request = UsualOptions.restore(words[...]) {
        let parsed = try RestoreCommand.parse(words).request
        #expect(String(reflecting: request) == String(reflecting: parsed), "\(words)")
        restores += 1
      }
    }
  }

  @Test func whatIsUsual() {
    #expect(UsualOptions.request(["dump", "-t", "1", "-D", "a", "-o", "dump.log", "--verbosity=4", "-R"]) is DumpRequest)
    #expect(UsualOptions.request(["restore", "--images", "a", "-d"]) is RestoreRequest)
    #expect(UsualOptions.request(["check"]) == nil && UsualOptions.request([]) == nil)
  }
}
