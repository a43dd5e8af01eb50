import Glibc
import Testing

extension Live {
  /// Others can read what was written of a live tree: Debian's crit decodes every image, and shows the tree as /proc does.
  @Suite(.enabled(if: Files.exists("/usr/bin/crit"), "crit is not installed"))
  struct Crit {
    @Test(arguments: ["fixtures/five", "zombies", "memfd", "ghost_file", "map_shared_anon", "ns_ipc", "seccomp_filter", "fifos"])
    func readsAFreshDump(of name: String) throws {
      try LiveProgram(name: name).run { job in
        try job.dump("--leave-running")
        let images = Files.names(job.images).filter { $0.hasSuffix(".img") && !$0.hasPrefix("pages-") } + ["stats-dump"]
        #expect(images.count > 10)
        for image in images {
          let text = try crit("decode", "-i", "\(job.images)/\(image)")
          #expect(text.contains("\"magic\"") && text.contains("\"entries\""), "\(image): \(text.prefix(200))")
        }
        let living = job.tree.filter { Processes.state(of: $0) != "Z" }
        let tasks = words(of: try crit("x", job.images, "ps")).filter { Int($0.first ?? "") != nil }
        #expect(Set(tasks.compactMap { pid_t($0[0]) }) == Set(job.tree))
        for task in tasks where living.contains(pid_t(task[0]) ?? 0) {
          #expect(task[1] == "\(getpgid(pid_t(task[0]) ?? 0))" && task[2] == "\(getsid(pid_t(task[0]) ?? 0))", "\(task)")
        }
        // crit looks for the descriptors of zombies too, which have none in any writer's images.
        guard living.count == job.tree.count else { return }
        let files = parts(of: try crit("x", job.images, "fds")), memory = parts(of: try crit("x", job.images, "mems"))
        #expect(Set(files.keys) == Set(living) && Set(memory.keys) == Set(living))
        for pid in living {
          let numbers = Set((files[pid] ?? []).compactMap { $0.hasSuffix(":") ? Int($0.dropLast()) : nil })
          #expect(numbers == Set(Files.names("/proc/\(pid)/fd").compactMap { Int($0) }), "descriptors of \(pid)")
          let mapped = Set((memory[pid] ?? []).compactMap { $0.split(separator: "-").first.map(String.init) })
          let maps = (Files.text("/proc/\(pid)/maps") ?? "").split(separator: "\n").filter {
            !$0.hasSuffix("[vvar_vclock]") && !$0.hasSuffix("[vsyscall]")
          }
          let missing = maps.compactMap { $0.split(separator: "-").first.map(String.init) }.filter { !mapped.contains($0) }
          #expect(!maps.isEmpty && missing.isEmpty, "mappings of \(pid)")
        }
      }
    }

    /// CRIU 4.2 takes shared memory without a name for a memfd that was opened for reading only; how it may be mapped says the mapping.
    @Test func mappingsSayHowTheirMemfdWasOpened() throws {
      let edit = """
        import json, glob, subprocess, sys
        def decode(name): return json.loads(subprocess.check_output(["/usr/bin/crit", "decode", "-i", name]))
        used = {entry["id"] for name in glob.glob("fdinfo-*.img") for entry in decode(name)["entries"]}
        files = decode("files.img")
        mapped = [entry for entry in files["entries"] if entry["type"] == "MEMFD" and entry["id"] not in used]
        for entry in mapped: entry["memfd"]["flags"] = ""
        subprocess.run(["/usr/bin/crit", "encode", "-o", "files.img"], input=json.dumps(files).encode(), check=True)
        sys.exit(0 if mapped else 1)
        """
      try LiveProgram(name: "memfd").run { job in
        try job.dump()
        let python = try Processes.start(
          ["/usr/bin/python3", "-c", edit], in: job.images, output: "/dev/null", errors: job.path("crit"), newSession: false)
        #expect(Processes.wait(for: python, seconds: 30)?.code == 0, "\(Files.text(job.path("crit")) ?? "")")
        try job.restore("--no-verify")
      }
    }

    private func words(of text: String) -> [[String]] {
      text.split(separator: "\n").map { $0.split(whereSeparator: { $0 == " " || $0 == "\t" }).map(String.init) }
    }

    /// The first words of the lines under each PID, which stands alone on its line.
    private func parts(of text: String) -> [pid_t: [String]] {
      var parts: [pid_t: [String]] = [:]
      var current: pid_t = 0
      for line in words(of: text) {
        if line.count == 1, let pid = pid_t(line[0]) {
          current = pid
          parts[pid] = []
        } else if let word = line.first {
          parts[current]?.append(word)
        }
      }
      return parts
    }

    private func crit(_ arguments: String...) throws -> String {
      let folder = try Files.makeTemporaryFolder("crit")
      defer { Files.remove(folder) }
      // The system's Python has crit's library.
      let pid = try Processes.start(
        ["/usr/bin/python3", "/usr/bin/crit"] + arguments, in: folder, output: folder + "/out", errors: folder + "/err", newSession: false)
      let code = Processes.wait(for: pid, seconds: 30)?.code
      #expect(code == 0, "crit \(arguments): \((Files.text(folder + "/err") ?? "").suffix(300))")
      return Files.text(folder + "/out") ?? ""
    }
  }
}
