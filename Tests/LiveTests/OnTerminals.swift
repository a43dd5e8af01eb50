import Glibc
import Testing

extension Live {
  /// --shell-job with real terminals: a job of one shell goes on as a job of another, on that one's terminal.
  @Suite struct OnTerminals {
    @Test func aJobMovesToAnotherTerminal() throws {
      try withEmulator { folder in
        let first = try start("first", rows: 31, ["\(folder)/on_terminal", "\(folder)/state"], in: folder)
        defer { end(first) }
        let before = try state(in: folder)
        #expect(before["leads"] == "1" && before["foreground"] == "1" && before["rows"] == "31" && before["echo"] == "0")
        let pid = try #require(before["pid"].flatMap { Int32($0) })

        let refused = try Tool.run(["dump", "-t", "\(pid)", "-D", "\(folder)/refused"])
        #expect(refused.code == 1 && refused.errors.contains("--shell-job"), "\(refused.errors)")
        #expect(try state(in: folder)["foreground"] == "1")

        try dump(pid, in: folder)

        // From no terminal, and without the option, there is nothing to give it.
        let without = try Tool.run(["restore", "-D", "\(folder)/images", "-d"])
        #expect(without.code == 1 && without.errors.contains("--shell-job"), "\(without.errors)")

        let second = try start("second", rows: 44, [Tool.path, "restore", "-D", "\(folder)/images", "--shell-job"], in: folder)
        defer { end(second) }
        let after = try state(in: folder)
        #expect(after["pid"] == "\(pid)" && after["leads"] == "1" && after["foreground"] == "1", "\(after)")
        #expect(after["session"] != before["session"] && after["tty"] != nil, "\(after)")
        #expect(after["rows"] == "31" && after["echo"] == "0" && after["same"] == "1", "\(after)")
        try Files.write("", to: "\(folder)/state.stop")
        #expect(Processes.poll(10) { Files.exists("\(folder)/second.end") })
        // The tool ends as the program did, and has its terminal back.
        #expect(Files.text("\(folder)/second.end") == "status 0x700 foreground job\n")
        #expect((Files.text("\(folder)/second") ?? "").contains("tick"))
      }
    }

    /// A child in a group and session that a shell outside of the tree leads: both become the restoring shell's.
    @Test func aGroupFromOutsideIsInherited() throws {
      try withEmulator { folder in
        let command = ["sh", "-c", "\(folder)/on_terminal \(folder)/state; exit 9"]
        let first = try start("first", rows: 31, command, in: folder)
        defer { end(first) }
        let before = try state(in: folder)
        #expect(before["leads"] == "0" && before["foreground"] == "1")
        let pid = try #require(before["pid"].flatMap { Int32($0) })
        try dump(pid, in: folder)
        let second = try start("second", rows: 44, [Tool.path, "restore", "-D", "\(folder)/images", "--shell-job"], in: folder)
        defer { end(second) }
        let after = try state(in: folder)
        #expect(after["pid"] == "\(pid)" && after["leads"] == "0" && after["foreground"] == "1", "\(after)")
        #expect(after["session"] != before["session"] && after["same"] == "1", "\(after)")
        try Files.write("", to: "\(folder)/state.stop")
        #expect(Processes.poll(10) { Files.exists("\(folder)/second.end") })
        #expect(Files.text("\(folder)/second.end") == "status 0x700 foreground job\n")
      }
    }

    /// Dumps the first emulator's job, which ends with that.
    private func dump(_ pid: pid_t, in folder: String) throws {
      let tree = Processes.tree(of: pid)
      let dumped = try Tool.run(["dump", "-t", "\(pid)", "-D", "\(folder)/images", "--shell-job"])
      #expect(dumped.code == 0, "\(dumped.errors)")
      _ = Processes.poll(10) {
        for pid in tree { waitpid(pid, nil, WNOHANG) }
        return Files.exists("\(folder)/first.end") && tree.allSatisfy { Processes.state(of: $0) == nil }
      }
      unlink("\(folder)/state")
    }

    /// A folder with both programs compiled; whatever runs in it is ended.
    private func withEmulator(_ body: (String) throws -> Void) throws {
      let folder = try Files.makeTemporaryFolder("terminal")
      defer {
        Processes.end(allOf: folder, and: [])
        Files.remove(folder)
      }
      for name in ["emulator", "on_terminal"] { try LiveProgram(name: "fixtures/\(name)").compile(to: name)(folder) }
      try body(folder)
    }

    private func start(_ name: String, rows: Int, _ command: [String], in folder: String) throws -> pid_t {
      try Processes.start(
        ["./emulator", "\(rows)", "\(folder)/\(name)"] + command, in: folder, output: "\(folder)/\(name).out",
        errors: "\(folder)/\(name).err", newSession: true)
    }

    private func end(_ emulator: pid_t) {
      kill(emulator, SIGKILL)
      _ = Processes.wait(for: emulator, seconds: 5)
    }

    /// What the program says of itself by now, by name.
    private func state(in folder: String) throws -> [String: String] {
      usleep(200_000)
      guard Processes.poll(10, { Files.exists("\(folder)/state") }) else {
        throw LiveFailure("it says nothing: \(Files.text("\(folder)/second") ?? Files.text("\(folder)/first") ?? "")")
      }
      usleep(200_000)
      let words = (Files.text("\(folder)/state") ?? "").split(whereSeparator: { $0 == " " || $0 == "\n" }).map(String.init)
      var state = ["same": words.last ?? ""]
      for (i, word) in words.enumerated() where i % 2 == 1 && i + 1 < words.count { state[word] = words[i + 1] }
      return state
    }
  }
}
