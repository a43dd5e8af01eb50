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
    "=", "-Da", "-dR", "--images=", "-D=a", "--detach=1", "--verbosity=-1", "-v", "-vvv", "-v3", "-v9", "-V", "-h", "--help", "-Rv4D",
    "-to",
    "--no-leave-running", "--tree=", "--pid=99999999999", "-t0", "--timeout=-3", "--", "--leave-runnin", "-t-1",
  ]
  /// Given to options that take a value.
  private static let values = [
    "", " ", "-", "--", "-1", "--pid", "-D", "+7", "007", "0", "2147483647", "2147483648", "-2147483649", "1e3", "٣", "1_0", "é\n", "=",
    "a=b=c",
    String(repeating: "9", count: 40), "\0",
  ]

  @Test func sameAsTheArgumentParsers() throws {
    var random = SystemRandomNumberGenerator()
    var (dumps, restores) = (0, 0)
    while dumps < 100 || restores < 100 {
      var words = (0..<Int.random(in: 0...4, using: &random)).flatMap { _ in Self.right.randomElement(using: &random) ?? [] }
      if Int.random(in: 0..<4, using: &random) == 0 {
        words.insert(Self.others.randomElement(using: &random) ?? "", at: Int.random(in: 0...words.count, using: &random))
      }
      if Int.random(in: 0..<4, using: &random) == 0, let at = words.indices.randomElement(using: &random),
        let value = Self.values.randomElement(using: &random)
      {
        let parts = words[at].split(separator: "=", maxSplits: 1)
        words[at] = parts.count == 2 ? "\(parts[0])=\(value)" : value
      }
      words = ShortOptions.spelledOut(words)
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

  /// Words as scripts for CRIU have them.
  @Test(arguments: [
    ("dump -vvvv -o dump.log -j -t 5 -D x", "dump --verbosity=4 -o dump.log -j -t 5 -D x"),
    ("dump -v4 -jt5 -Dx -odump.log", "dump --verbosity=4 -j -t 5 -D x -o dump.log"),
    ("restore -v -v -vdjD x", "restore --verbosity=1 --verbosity=2 --verbosity=3 -d -j -D x"),
    ("restore -v2v -dSv0", "restore --verbosity=3 -d -S --verbosity=0"),
    ("-V", "--version"), ("dump -D -v4 -t -V", "dump -D -v4 -t -V"),
    ("dump -D=x -t-5 - -x -jx --tree -- -v4", "dump -D=x -t-5 - -x -jx --tree -- -v4"),
    ("dump -D", "dump -D"),
  ])
  func shortOptionsAsGetoptTakesThem(_ words: String, _ expected: String) {
    #expect(ShortOptions.spelledOut(words.split(separator: " ").map(String.init)).joined(separator: " ") == expected)
  }

  /// What is not so in any of the commands is in its help.
  @Test(arguments: ["dump", "restore", "check", "show"])
  func everyFlagCanBeTakenBack(_ command: String) throws {
    let help = try swiftRestore(command, "--help").output
    let flags = help.split(separator: "\n").filter {
      $0.hasPrefix("  -") && !$0.contains("<") && !$0.contains("--help") && !$0.contains("--version")
    }
    #expect(!flags.isEmpty)
    for flag in flags { #expect(flag.contains("/--no-"), "\(flag)") }
    #expect(help.contains("USAGE: swift-restore \(command) "))
  }
}
