import Glibc
import Testing

extension Live {
  /// Somebody else has hands on the tree too: one wins or both fail clearly, and the program lives.
  @Suite struct TwoAtOnce {
    @Test func twoDumps() throws {
      try LiveProgram(name: "fixtures/five").run { job in
        let tree = Processes.tree(of: job.pid)
        let before = Condition(of: tree)
        var won = 0
        for round in 0..<20 {
          let dumps = try (0..<2).map {
            try Attempt(["dump", "-t", "\(job.pid)", "-D", job.path("\(round).\($0)"), "-R"], job, "\(round).\($0)")
          }
          for dump in dumps {
            let code = dump.wait()
            won += code == 0 ? 1 : 0
            #expect(Files.exists(dump.images + "/inventory.img") == (code == 0))
            if code != 0 { expectClear(code, dump.errors, naming: ["traced"]) }
          }
        }
        #expect(won >= 1)
        #expect(before.lastingChanges(of: tree).isEmpty)
      }
    }

    /// Both are to end the tree: there is one checkpoint, and it can be restored.
    @Test func twoDumpsThatEndTheTree() throws {
      try LiveProgram(name: "fixtures/five").run { job in
        let tree = Processes.tree(of: job.pid)
        var outcomes: [(images: String, code: Int32)] = []
        for _ in 0..<20 where !outcomes.contains(where: { $0.code == 0 }) {
          outcomes = []
          let dumps = try (0..<2).map { try Attempt(["dump", "-t", "\(job.pid)", "-D", job.path("end.\($0)")], job, "end.\($0)") }
          for dump in dumps {
            let code = dump.wait()
            outcomes.append((dump.images, code))
            if code != 0 { expectClear(code, dump.errors, naming: []) }
          }
        }
        let whole = outcomes.filter { $0.code == 0 }
        try #require(whole.count == 1)
        try expectGone(tree)
        let outcome = try job.tryRestore(from: whole[0].images)
        #expect(outcome.code == 0, "\(outcome.errors)")
      }
    }

    @Test func dumpDuringARestore() throws {
      try LiveProgram(name: "fixtures/five").run { job in
        for round in 0..<20 {
          try job.dump()
          let restore = try Attempt(["restore", "-D", job.images, "-d"], job, "restore.\(round)")
          var taken = false
          while !taken, restore.poll() == nil {
            let dump = try Attempt(["dump", "-t", "\(job.pid)", "-D", job.path("early.\(round)"), "-R"], job, "early.\(round)")
            let code = dump.wait()
            taken = code == 0
            if code != 0 { expectClear(code, dump.errors, naming: []) }
            #expect(Files.exists(dump.images + "/inventory.img") == taken)
            Files.remove(dump.images)
          }
          let code = restore.wait()
          if code != 0 {
            // The dump won what it could not use; nothing is left, and the next restore works.
            expectClear(code, restore.errors, naming: ["task "])
            try job.expectNothingLeft()
            try job.restore()
          }
        }
      }
    }

    /// A child that somebody ends while its brothers are being born: the restore says so, and takes back what it has made.
    @Test func aChildIsKilledDuringARestore() throws {
      try LiveProgram(name: "many_children").run { job in
        let children = Processes.tree(of: job.pid).dropFirst()
        try job.dump()
        var told = 0
        for round in 0..<12 {
          let victim = children[children.startIndex + round * 37 % children.count]
          let restore = try Attempt(["restore", "-D", job.images, "-d"], job, "killed.\(round)")
          while kill(victim, SIGKILL) != 0, restore.poll() == nil {}
          let code = restore.wait()
          if code == 0 {
            // It was released before: the tree lives, but for one.
            for pid in [job.pid] + children { kill(pid, SIGKILL) }
          } else {
            expectClear(code, restore.errors, naming: ["task \(victim)"])
            told += 1
          }
          try expectGone([job.pid] + children)
        }
        #expect(told > 6)
        try job.restore()
      }
    }

    @Test func tasksThatComeAndGo() throws {
      try LiveProgram(name: "fixtures/forker").run { job in
        var done = 0
        for round in 0..<60 {
          let dump = try Attempt(["dump", "-t", "\(job.pid)", "-D", job.path("\(round)"), "-R"], job, "\(round)")
          let code = dump.wait()
          done += code == 0 ? 1 : 0
          if code != 0 { expectClear(code, dump.errors, naming: []) }
          Files.remove(dump.images)
        }
        #expect(done > 50, "only \(done) of 60 dumps succeed")
        try job.cycle()
      }
    }

    private func expectGone(_ tree: [pid_t]) throws {
      let gone = Processes.poll(5) {
        for pid in tree { waitpid(pid, nil, WNOHANG) }
        return tree.allSatisfy { Processes.state(of: $0) == nil }
      }
      #expect(gone)
    }

    private func expectClear(_ code: Int32, _ errors: String, naming words: [String]) {
      #expect(code == 1, "\(errors)")
      #expect(errors.split(separator: "\n").count == 2, "\(errors)")
      for word in words { #expect(errors.contains(word), "\(errors)") }
    }

    /// The tool, while it runs.
    final class Attempt {
      let images: String
      private let pid: pid_t
      private let errorFile: String
      private var code: Int32?

      init(_ arguments: [String], _ job: Job, _ name: String) throws {
        images = job.path(name)
        errorFile = job.path(name + ".errors")
        pid = try Processes.start(
          [Tool.path] + arguments, in: "/", output: "/dev/null", errors: errorFile, newSession: false)
      }

      var errors: String { Files.text(errorFile) ?? "" }

      /// Its exit status; nil while it runs.
      func poll() -> Int32? {
        if code == nil { code = Processes.wait(for: pid, seconds: 0)?.code }
        return code
      }

      func wait() -> Int32 {
        if code == nil { code = Processes.wait(for: pid, seconds: 30)?.code }
        if code == nil { kill(pid, SIGKILL) }
        return code ?? -1
      }
    }
  }
}
