import Foundation
import Testing

@Suite(.enabled(if: haveSamples, "no samples: set SHARED"))
struct ShowTests {
  @Test("show has every task, thread and file of what CRIU wrote", arguments: ["sleep", "pipeline", "mixed"])
  func people(sample: String) throws {
    let shown = try swiftRestore("show", "\(samples)/\(sample)")
    #expect(shown.status == 0)
    #expect(shown.errors == "")
    for task in try tasks(of: sample) {
      let (pid, comm) = (try #require(task["pid"] as? Int), try #require(task["comm"] as? String))
      #expect(shown.output.contains("\(pid) \(comm)  alive"))
    }
    #expect(shown.output.contains(": reg /dev/null rw"))
  }

  @Test("Children stand below their parents, indented")
  func indented() throws {
    let lines = try swiftRestore("show", samples + "/mixed").output.split(separator: "\n")
    let heads = lines.filter { $0.contains("  alive") }.map { $0.prefix { $0 != "m" } }
    #expect(heads == ["24237 ", "  24240 ", "    24241 "])
  }

  @Test("--json is one document with the tree in it")
  func json() throws {
    let tasks = try tasks(of: "mixed")
    #expect(tasks.map { $0["pid"] as? Int } == [24237, 24240, 24241])
    #expect(tasks.map { $0["parent"] as? Int } == [nil, 24237, 24240])
    #expect(tasks.map { $0["session"] as? Int } == [24237, 24240, 24240])
    #expect(tasks.map { ($0["threads"] as? [Any])?.count } == [3, 1, 1])
    let memory = try #require(tasks[0]["memory"] as? [String: Any])
    #expect(memory["dumped_pages"] as? Int == 17)
    let files = try #require(tasks[0]["files"] as? [[String: Any]])
    #expect(
      files.map { $0["kind"] as? String } == [
        "reg", "reg", "reg", "pipe", "pipe", "unixsk", "unixsk", "eventfd", "eventpoll", "timerfd",
        "signalfd",
        "inetsk",
      ])
    #expect(files[4]["access"] as? String == "w")
  }

  @Test("A pipe between two tasks has the same name in both")
  func pipeline() throws {
    let tasks = try tasks(of: "pipeline")
    let pipes = tasks.map { task in
      (task["files"] as? [[String: Any]])?.first { $0["kind"] as? String == "pipe" }?["target"] as? String
    }
    #expect(pipes == [nil, "pipe:[1571388]", "pipe:[1571388]"])
  }

  @Test("-D names the folder as well, and twice is wrong usage")
  func option() throws {
    let named = try swiftRestore("show", "-D", samples + "/sleep")
    #expect(named.output == (try swiftRestore("show", samples + "/sleep").output))
    #expect(try swiftRestore("show", "-D", "a", "b").status == 64)
  }

  @Test("--schedule prints a step a line, also of a tree with objects that cannot be restored")
  func schedule() throws {
    let shown = try swiftRestore("show", "--schedule", samples + "/mixed")
    #expect(shown.status == 0)
    let steps = shown.output.split(separator: "\n")
    #expect(steps.first == "tool: clone task #0 as 24237")
    #expect(steps.count == 7)
    let json = try swiftRestore("show", "--schedule", "--json", samples + "/mixed").json()
    #expect(json["steps"] as? [String] == steps.map(String.init))
  }

  @Test("A folder that is missing, or no checkpoint, is an error in the style of every command")
  func noCheckpoint() throws {
    let missing = try swiftRestore("show", "/nonexistent")
    #expect(missing.status == 1)
    #expect(missing.errors.hasPrefix("swift-restore: /nonexistent: open the folder: ENOENT"))
    #expect(missing.output == "")
    try withFolder { folder in
      let empty = try swiftRestore("show", folder, "--json")
      #expect(empty.status == 1)
      let error = try #require(try empty.json()["error"] as? [String: Any])
      #expect((error["cause"] as? String)?.hasPrefix("inventory.img: open: ENOENT") == true)
    }
  }

  @Test(
    "An image that is cut short is named",
    arguments: ["pstree", "core-24222", "mm-24222", "fdinfo-2", "files"])
  func cutShort(image: String) throws {
    try withCopy(of: "sleep") { folder in
      let url = URL(fileURLWithPath: "\(folder)/\(image).img")
      try Data(contentsOf: url).dropLast(3).write(to: url)
      let shown = try swiftRestore("show", folder)
      #expect(shown.status == 1)
      #expect(shown.errors.contains("\(image).img"))
    }
  }

  @Test("Whatever bit of the small images is flipped, show ends with 0 or 1")
  func flipped() throws {
    try withCopy(of: "sleep") { folder in
      var random = SystemRandomNumberGenerator()
      for name in ["pstree.img", "mm-24222.img", "pagemap-24222.img", "files.img", "fdinfo-2.img"] {
        let url = URL(fileURLWithPath: "\(folder)/\(name)")
        let whole = try Data(contentsOf: url)
        for _ in 0..<12 {
          var damaged = whole
          let (byte, bit) = (
            Int.random(in: 0..<whole.count, using: &random), Int.random(in: 0..<8, using: &random)
          )
          damaged[byte] ^= 1 << UInt8(bit)
          try damaged.write(to: url)
          let shown = try swiftRestore("show", folder)
          #expect([0, 1].contains(shown.status), "\(name), byte \(byte), bit \(bit)")
          #expect((shown.status == 0) == shown.errors.isEmpty, "\(name), byte \(byte), bit \(bit)")
        }
        try whole.write(to: url)
      }
    }
  }

  private func tasks(of sample: String) throws -> [[String: Any]] {
    let shown = try swiftRestore("show", "--json", "\(samples)/\(sample)")
    #expect(shown.status == 0)
    return try #require(try shown.json()["tasks"] as? [[String: Any]])
  }
}
