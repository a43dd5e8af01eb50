import Glibc
import Testing

extension Live {
  /// Trees go from CRIU to swift-restore, with mount namespaces also back: `CRIU` names the program, 4.2 or later.
  @Suite(.enabled(if: getenv("CRIU") != nil, "CRIU is not set"))
  struct Interoperation {
    enum Way: CaseIterable { case fromCRIU, fromCRIUWithExternalMounts, toCRIU }

    /// A tmpfs with files that are open, parts of it and of the disk at other places, a sysfs, and a namespace in the namespace; then
    /// what is seen of it. CRIU would copy all that the machine has in /dev/shm.
    private static let script = """
      exec <$HOME/input >$HOME/out 2>&1; cd $HOME; mkdir tmp bound disk
      while umount -l /dev/shm 2>&-; do :; done
      mount -t tmpfs -o size=1m inner tmp; mkdir tmp/sub; echo kept >tmp/sub/file; mount --bind tmp/sub bound
      mount --bind /usr disk; mount -t sysfs sysfs /media; exec 5<tmp/sub/file 6>>bound/new; cd tmp/sub
      unshare -m bash -c '. $HOME/inner' & until [ -e $HOME/inner.ready ]; do read -t 0.05; done; touch $HOME/ready
      until [ -e $HOME/go ]; do read -t 0.05; done; wait
      read word <&5; echo new >&6; echo "$$ $word $(cat $HOME/bound/new) $(stat -f -c %T .) $(cd $HOME/disk/bin && cd /media/block && echo seen)"
      echo "$(cut -d" " -f4- /proc/self/mountinfo | grep -c $HOME) $PWD $([ -e /proc/$$/root ] && echo proc)"
      """

    /// It hides the disk, and with it other mounts.
    private static let inner = """
      exec <$HOME/input >$HOME/inner.out 2>&1; mount -t tmpfs inner /mnt; echo deep >/mnt/file; touch $HOME/inner.ready
      until [ -e $HOME/go ]; do read -t 0.05; done; echo $(cat /mnt/file $HOME/tmp/sub/file) $(ls /mnt)
      """

    @Test(
      arguments: Way.allCases,
      [["unshare", "-m"], ["unshare", "-m", "-u", "-i"], ["unshare", "-p", "-f", "-m", "--mount-proc", "setsid"]])
    func mountNamespaces(_ way: Way, _ unshare: [String]) throws {
      // Whatever is open from outside of the namespace CRIU refuses.
      let shut = "for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -gt 2 ] && eval \"exec $fd>&-\"; done"
      let command = ["bash", "-c", "\(shut); HOME=$PWD exec \(unshare.joined(separator: " ")) bash -c '. ./script'"]
      try Job.run(
        command, named: "interop",
        prepare: { folder in
          try Files.write(Self.script, to: folder + "/script")
          try Files.write(Self.inner, to: folder + "/inner")
          mkfifo(folder + "/input", 0o600)
        }
      ) { job in
        let writer = open(job.path("input"), O_RDWR | O_CLOEXEC)
        defer { close(writer) }
        try job.waitFor("ready")
        usleep(200_000)
        let inner = unshare.contains("-p") ? try #require(Processes.tree(of: job.pid).dropFirst().first) : job.pid
        let images = job.path("images")
        mkdir(images, 0o700)
        let external = way == .fromCRIU ? [] : ["--external", "mnt[]"]
        let dump = ["dump", "-t", "\(inner)", "-D", images]
        try succeed(way == .toCRIU ? try Tool.run(dump) : try criu(dump + external, images))
        // unshare has ended with its child.
        #expect(
          Processes.poll(5) {
            Processes.reapOrphans(of: [job.pid, inner])
            waitpid(job.pid, nil, WNOHANG)
            return Processes.state(of: inner) == nil && Processes.state(of: job.pid) == nil
          })
        let restore = ["restore", "-D", images, "-d"]
        try succeed(way == .toCRIU ? try criu(restore + external + ["--root", "/"], images) : try Tool.run(restore))
        try Files.write("", to: job.path("go"))
        #expect(Processes.poll(5) { (Files.text(job.path("out")) ?? "").contains("proc\n") })
        #expect(try job.text("inner.out") == "deep kept file\n")
        let pid = unshare.contains("-p") ? 1 : job.pid
        #expect(
          try job.text("out") == """
            \(pid) kept new tmpfs seen
            3 \(job.folder)/tmp/sub proc

            """)
      }
    }

    /// What CRIU has dumped well comes back, also where it writes other than swift-restore does: threads of a zombie that are none,
    /// a scheduling policy with a flag in it, one entry for all that maps a file, flags of an open(2) that made a file without a name.
    @Test(
      arguments: [
        "zombies", "zombie_core", "sig_pending", "sched", "map_file", "map_deleted", "ghost_file", "threads", "epolls", "pipes", "fifos",
        "memfd", "regs_fpu", "seccomp_filter", "map_shared_anon", "sig_handler", "itimers", "posix_timers", "creds",
      ])
    func programs(_ name: String) throws {
      try LiveProgram(name: name).run { job in
        try job.dump(program: String(cString: getenv("CRIU")), prefix: [], ["-o", "log", "-v4"])
        try job.restore()
      }
    }

    private func criu(_ arguments: [String], _ images: String) throws -> Tool.Outcome {
      let outcome = try Tool.run(arguments + ["-o", "log", "-v4"], program: String(cString: getenv("CRIU")))
      let log = (Files.text(images + "/log") ?? "").split(separator: "\n").filter { $0.contains("Error") }
      return Tool.Outcome(code: outcome.code, output: outcome.output, errors: log.joined(separator: "\n"))
    }

    private func succeed(_ outcome: Tool.Outcome) throws {
      guard outcome.code == 0 else { throw LiveFailure("exit \(outcome.code): \(outcome.errors)") }
    }
  }
}
