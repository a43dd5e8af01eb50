import Glibc
import Testing

extension Live {
  /// A container in a container, each with a PID and a mount namespace and the proc that belongs to it. Its parts are dumped by a tool
  /// that lives further out than where their mounts were made, and what hides what is as it was.
  @Suite struct Levels {
    /// Where the root of the dumped tree lives: in the outer container with the inner one's mounts, as the inner one's PID 1, below it.
    enum Root: Int, CaseIterable, CustomTestStringConvertible {
      case entrance = 2
      case initProcess, task
      var testDescription: String { "\(self)" }
    }

    enum Level: CaseIterable { case machine, container }

    @Test(arguments: Root.allCases, Level.allCases) func rootsOfAnyLevelComeBack(_ root: Root, _ level: Level) throws {
      for options in [[], ["--new-pid-namespace"]] {
        // Somebody else may have taken a PID meanwhile.
        for attempt in 1...5 {
          if try inStack({ try cycle($0, root, level, options, isLast: attempt == 5) }) { break }
        }
      }
    }

    /// Whether the PIDs were free.
    private func cycle(_ job: Job, _ root: Root, _ level: Level, _ options: [String], isLast: Bool) throws -> Bool {
      let pids = Processes.tree(of: job.pid)
      let (container, pid) = (pids[1], pids[root.rawValue])
      let inner = LiveTree.numbers("NSpid", of: pid)
      let dump =
        switch level {
        case .machine: try Tool.run(["dump", "-t", "\(pid)", "-D", job.images])
        case .container:
          try Tool.run(["dump", "-t", "\(inner[1])", "-D", job.images], prefix: ["nsenter", "-t", "\(container)", "-p", "-m"])
        }
      try #require(dump.code == 0, "\(dump.errors)")
      try job.killTree()
      let restore = try Tool.run(["restore", "-D", job.images, "-d", "--pidfile", job.path("pid")] + options)
      let isTaken = ["EEXIST", "swift-restore's own", "waits for swift-restore"].contains { restore.errors.contains($0) }
      if isTaken, options.isEmpty, !isLast { return false }
      try #require(restore.code == 0, "\(restore.errors)")
      let restored = pid_t(try job.text("pid")) ?? 0
      // Levels around the root's are the tool's, unless one had its own.
      let outermost = root == .task ? 2 : 1
      #expect(LiveTree.numbers("NSpid", of: restored).suffix(inner.count - outermost) == inner[outermost...])
      try Files.write("", to: job.path("go"))
      try job.waitFor("done")
      try expectAnswers(try job.text("out"), of: restored, root)
      return true
    }

    /// What the shell in the inner container says: its mounts are the same, the proc that it sees is that of its namespace, and below
    /// it lies one of the namespace around.
    private func expectAnswers(_ text: String, of restored: pid_t, _ root: Root) throws {
      let lines = text.split(separator: "\n").map(String.init)
      let pids = (lines.first ?? "").split(separator: " ").compactMap { pid_t($0) }
      try #require(pids.count == 3, "\(text)")
      #expect(pids[0] == pids[1], "$$ and /proc/self")
      // A root below PID 1 comes back in the namespace of the tool, or in one made for it, and so does what was around.
      if root == .task { #expect(pids[2] == pids[0]) } else { #expect(pids[2] != pids[0] && pids[2] != 0) }
      #expect(lines.dropFirst() == ["[1]+ Running sleep 1000 &", "143", "kept", "kept"], "\(text)")
    }

    /// A container with a root of its own, in a file system or only a directory of another container's, comes back without that one.
    @Test(arguments: ["tmpfs", "directory"]) func innerContainerComesBackAlone(_ root: String) throws {
      let furnish = """
        mkdir usr etc proc sys dev tmp old job; for l in bin lib lib64 sbin; do ln -s usr/$l $l; done
        mount --bind /usr usr; mount --bind /etc etc; mount -t proc proc proc; mount -t sysfs -o ro sysfs sys; mount -t tmpfs dev dev
        mknod dev/null c 1 3; mkdir dev/pts dev/mqueue; mount -t devpts -o newinstance devpts dev/pts; mount -t mqueue mqueue dev/mqueue
        """
      let outer = """
        set -e; mount --make-rprivate /; mount -t tmpfs root root; cd root; mkdir inner
        \(furnish); mount --bind .. job; pivot_root . old; umount -l /old
        setsid unshare -p -f -m -u -i setsid bash /job/inner </dev/null & exec sleep 1000
        """
      let inner = """
        set -e; cd /; mount \(root == "tmpfs" ? "-t tmpfs root" : "--bind inner") inner; cd /inner
        \(furnish); mount --bind /job job; mount --bind dev/null proc/version; hostname box; echo kept >tmp/kept
        pivot_root . old; umount -l /old; cd /tmp; exec bash /job/program </dev/null >/job/out 2>&1
        """
      let program = """
        list() { cut -d" " -f4- /proc/self/mountinfo | sort; }; list >/tmp/before; exec 5</tmp/kept 6</etc/hostname
        touch /job/ready; until [ -e /job/go ]; do sleep 0.05; done
        list | cmp - /tmp/before && echo $$ $(hostname) $(cat <&5) $(pwd) $(cat /proc/version | wc -c) $(list | wc -l)
        sleep 0 & wait $! && echo forks; touch /job/done
        """
      try Job.run(
        ["unshare", "-p", "-f", "-m", "-u", "-i", "setsid", "bash", "./outer"], named: "inner",
        prepare: { folder in
          for name in ["root", "images.0"] { mkdir("\(folder)/\(name)", 0o700) }
          for (name, text) in [("outer", outer), ("inner", inner), ("program", program)] {
            try Files.write(text, to: "\(folder)/\(name)")
          }
        }
      ) { job in
        try job.waitFor("ready")
        // The outermost unshare, the outer container, the inner unshare, the inner container.
        let pid = Processes.tree(of: job.pid)[3]
        let dump = try Tool.run(["dump", "-t", "\(pid)", "-D", job.images])
        try #require(dump.code == 0, "\(dump.errors)")
        try job.killTree()
        let restore = try Tool.run(["restore", "-D", job.images, "-d", "--new-pid-namespace"])
        try #require(restore.code == 0, "\(restore.errors)")
        try Files.write("", to: job.path("go"))
        try job.waitFor("done")
        #expect(try job.text("out") == "1 box kept /tmp 0 10\nforks\n")
      }
    }

    /// Where a shell writes to was opened in the namespace around its own, in a file system that both have and the machine has not.
    @Test func filesOfTheNamespaceAroundComeBack() throws {
      let outer = """
        mount -t tmpfs around place
        unshare -m setsid sh -c 'echo before; echo >ready; read line; echo $line; read line' 0<>input >place/out 2>&1 & exec sleep 1000
        """
      try Job.run(
        ["unshare", "-m", "sh", "./outer"], named: "around",
        prepare: { folder in
          for name in ["place", "images.0"] { mkdir("\(folder)/\(name)", 0o700) }
          mkfifo(folder + "/input", 0o600)
          try Files.write(outer, to: folder + "/outer")
        }
      ) { job in
        try job.waitFor("ready")
        let pid = Processes.tree(of: job.pid)[1]
        let dump = try Tool.run(["dump", "-t", "\(pid)", "-D", job.images])
        try #require(dump.code == 0, "\(dump.errors)")
        try job.killTree()
        let restore = try Tool.run(["restore", "-D", job.images, "-d"])
        try #require(restore.code == 0, "\(restore.errors)")
        try Files.write("after\n", to: job.path("input"))
        let out = "/proc/\(pid)/root\(job.path("place/out"))"
        _ = Processes.poll(10) { Files.text(out)?.hasSuffix("after\n") ?? false }
        #expect(Files.text(out) == "before\nafter\n")
        try Files.write("end\n", to: job.path("input"))
      }
    }

    /// With the proc of another PID namespace no process would be found, or a wrong one.
    @Test(arguments: ["-p", "-m"]) func wrongProcIsNamed(_ entered: String) throws {
      try inStack { job in
        let container = Processes.tree(of: job.pid)[1]
        let commands = [["dump", "-t", "2", "-D", job.images], ["restore", "-D", job.images], ["--version"]]
        // Without it not even the runtime starts.
        for command in commands.prefix(entered == "-p" ? 2 : 3) {
          let outcome = try Tool.run(command, prefix: ["nsenter", "-t", "\(container)", entered])
          #expect(outcome.code == 1)
          #expect(outcome.errors.contains("mount -t proc"), "\(outcome.errors)")
        }
      }
    }

    private func inStack<Result>(_ body: (Job) throws -> Result) throws -> Result {
      // Numbers that this tree has on the machine, and that are free there when it is gone.
      let outer = """
        echo $(($1 - 1)) >/proc/sys/kernel/ns_last_pid
        setsid unshare -p -f --mount-proc setsid bash ./init $1 </dev/null >/dev/null 2>&1 & exec sleep 1000
        """
      let initProcess =
        "echo $((($1 + 100) % 30000 + 300)) >/proc/sys/kernel/ns_last_pid; setsid bash ./task </dev/null >out 2>/dev/null & wait"
      let task = """
        set -m; list() { cut -d" " -f4- /proc/self/mountinfo | sort; }
        mount -t tmpfs one place; echo kept >place/file; exec 7<place/file; mount -t tmpfs two place; echo above >place/file
        sleep 1000 & list >before; echo >ready; until [ -e go ]; do sleep 0.05; done
        list | cmp - before; read self rest </proc/self/stat; read word <&7; umount place
        jobs | tr -s " " >jobs; kill %1; wait %1; code=$?
        umount /proc; read around rest </proc/self/stat
        echo $$ $self ${around:-0}; cat jobs; echo $code; cat place/file; echo $word; echo >done
        """
      return try Job.run(
        ["sh", "-c", "exec unshare -p -f --mount-proc bash ./outer $$"], named: "stack",
        prepare: { folder in
          for (name, text) in [("outer", outer), ("init", initProcess), ("task", task)] {
            try Files.write(text, to: "\(folder)/\(name)")
          }
          mkdir(folder + "/place", 0o755)
          mkdir(folder + "/images.0", 0o700)
        }
      ) { job in
        try job.waitFor("ready")
        return try body(job)
      }
    }
  }
}
