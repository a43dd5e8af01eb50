import Glibc
import Testing

extension Live {
  /// Trees with namespaces of their own; most of it is in the programs ns_*.
  @Suite struct Namespaces {
    /// What was mounted by whom is not the machine's business, whether a restore succeeds or fails.
    @Test func theMachineKeepsItsMountsAndNames() throws {
      let before = [Files.text("/proc/self/mountinfo"), Files.text("/proc/sys/kernel/hostname")]
      try container("machine", "touch $TMP/ready; while [ ! -e $TMP/../stop ]; do sleep 0.05; done; echo $(hostname) $(cat $TMP/f)") {
        job in
        try job.dump()
        #expect([Files.text("/proc/self/mountinfo"), Files.text("/proc/sys/kernel/hostname")] == before)
        // Its descriptors are recorded; without their table the restore fails, late.
        let pages = Files.names(job.images).filter { $0.hasPrefix("pages-") }
        let kept = try #require(Files.bytes("\(job.images)/\(pages[0])"))
        try Files.write(kept.dropLast(4096), to: "\(job.images)/\(pages[0])")
        #expect(try job.tryRestore().code == 1)
        #expect([Files.text("/proc/self/mountinfo"), Files.text("/proc/sys/kernel/hostname")] == before)
        try Files.write(kept, to: "\(job.images)/\(pages[0])")
        try job.restore()
        #expect([Files.text("/proc/self/mountinfo"), Files.text("/proc/sys/kernel/hostname")] == before)
        try Files.write("", to: job.path("stop"))
        #expect(try job.finish() == 0)
        #expect(try job.text("out") == "inside kept\n")
      }
    }

    /// unshare(1) and the shell it starts: both came in with the same descriptors, opened before there was a namespace.
    @Test func aShellUnderUnshareReadsOnWhatItWasStartedWith() throws {
      try container("shell", "touch $TMP/ready; read line; echo $line $(stat -f -c %T $TMP) $(hostname) >$TMP/../answer") { job in
        try job.cycle()
        try job.cycle()
        try Files.write("word\n", to: job.path("input"))
        #expect(try job.finish() == 0)
        #expect(try job.text("answer") == "word tmpfs inside\n")
      }
    }

    /// Two shells in a PID namespace each, one inside the other, with a proc of its own and a job in the background.
    @Test func shellsInNestedPIDNamespacesHaveTheRightProc() throws {
      let job = "sleep 1000 & touch ready.$1; while [ ! -e go.$1 ]; do sleep 0.05; done"
      let answer = """
        echo $1: $$, $(cut -d" " -f1 /proc/self/stat | wc -l), $(readlink /proc/1/ns/pid | cmp - <(readlink /proc/self/ns/pid) && echo same); \
        jobs %1 | tr -s " "; kill %1; wait %1; echo ended with $?
        """
      let script = "set -m; \(job); \(answer)"
      try Job.run(
        ["unshare", "-p", "-f", "--mount-proc", "bash", "./outer"], named: "nested",
        prepare: { folder in
          try Files.write("set inner\n\(script)\n", to: folder + "/inner")
          let inner = "unshare -p -f --mount-proc bash ./inner >inner.out 2>&1 &"
          try Files.write("\(inner)\nset outer\n\(script.replacing("%1", with: "%2"))\nwait\n", to: folder + "/outer")
        }
      ) { job in
        try job.waitFor("ready.inner")
        try job.waitFor("ready.outer")
        for _ in 1...3 { try job.cycle() }
        try Files.write("", to: job.path("go.inner"))
        try Files.write("", to: job.path("go.outer"))
        #expect(try job.finish() == 0)
        #expect(try job.text("inner.out").hasPrefix("inner: 1, 1, same\n[1]+ Running sleep 1000 &\n"))
        #expect(try job.text("inner.out").hasSuffix("ended with 143\n"))
        #expect(try job.text("out").hasPrefix("outer: 1, 1, same\n[2]+ Running sleep 1000 &\n"))
        #expect(try job.text("out").hasSuffix("ended with 143\n"))
      }
    }

    /// What container runtimes put together: a root of its own with all the usual mounts, masked and read-only parts of proc, and
    /// nothing left of the machine's.
    @Test func aContainerWithARootOfItsOwn() throws {
      let setUp = """
        set -e; mount --make-rprivate /; mount -t tmpfs root root; cd root
        mkdir usr etc proc sys dev tmp old job; for l in bin lib lib64 sbin; do ln -s usr/$l $l; done
        mount --bind /usr usr; mount -o remount,bind,ro usr; mount --bind /etc etc; mount --bind .. job
        mount -t proc proc proc; mount -t sysfs -o ro sysfs sys; mount -t tmpfs -o mode=755 dev dev
        mknod dev/null c 1 3; mkdir dev/pts dev/shm dev/mqueue; mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
        mount -t mqueue mqueue dev/mqueue; mount -t tmpfs shm dev/shm
        mount --bind dev/null proc/version; mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
        hostname box; pivot_root . old; umount -l /old; exec bash /job/program
        """
      let program = """
        list() { cut -d" " -f4- /proc/self/mountinfo | sort; }
        echo kept >/dev/shm/kept; exec 7</dev/null 8</etc/hostname; list >/tmp/before
        touch /job/ready; while [ ! -e /job/go ]; do sleep 0.05; done
        list | cmp - /tmp/before && echo $$ $(hostname) $(cat /dev/shm/kept) $(cat /proc/version | wc -c) $(list | wc -l)
        readlink /proc/self/fd/7 /proc/self/fd/8; [ -e /old/bin ] && echo the machine is seen; sleep 0 & wait $! && echo forks
        """
      try Job.run(
        ["unshare", "-p", "-f", "-m", "-u", "-i", "bash", "./container"], named: "container",
        prepare: { folder in
          mkdir(folder + "/root", 0o755)
          try Files.write(setUp, to: folder + "/container")
          try Files.write(program, to: folder + "/program")
        }
      ) { job in
        try job.waitFor("ready")
        for _ in 1...3 { try job.cycle() }
        try Files.write("", to: job.path("go"))
        #expect(try job.finish() == 0)
        #expect(try job.text("out") == "1 box kept 0 12\n/dev/null\n/etc/hostname\nforks\n")
      }
    }

    /// A shell in UTS, IPC and mount namespaces, with a tmpfs at `$TMP`. Its input is the named pipe `input`.
    private func container(_ name: String, _ script: String, _ body: (Job) throws -> Void) throws {
      let prepare = { (folder: String) in
        mkdir(folder + "/tmp", 0o755)
        mkfifo(folder + "/input", 0o600)
      }
      let start = """
        hostname inside; mount -t tmpfs inner $TMP; mount -t tmpfs -o ro none /media; echo kept >$TMP/f; cd $TMP; \(script)
        """
      // Whoever opens the pipe for reading waits for a writer, so the shell opens both ends.
      try Job.run(
        ["sh", "-c", "TMP=$PWD/tmp; export TMP; exec unshare -m -u -i sh -c '\(start)' 0<>input"], named: name, prepare: prepare
      ) { job in
        guard Processes.poll(15, { Files.exists("/proc/\(job.pid)/root\(job.path("tmp/ready"))") }) else {
          throw LiveFailure("not ready; \(job.condition)")
        }
        try body(job)
      }
    }

    @Test(arguments: [
      ("thread", "uts-ns"), ("segment", "(ipc)"), ("queue", "(mqueue)"), ("net", "(net-ns)"), ("shared", "(propagation)"),
      ("type", "ramfs"), ("detached", "no namespace of the tree (mount)"),
    ])
    func whatCannotBeMadeAgainIsNamed(_ obstacle: String, _ words: String) throws {
      try LiveProgram(name: "fixtures/refused_namespaces").run(environment: ["OBSTACLE": obstacle]) { job in
        let outcome = try job.tryDump()
        #expect(outcome.code == 1)
        #expect(outcome.errors.contains(words), "\(outcome.errors)")
        #expect(!Files.exists(job.images + "/inventory.img"))
        #expect(Processes.state(of: job.pid) != nil)
      }
    }
  }
}
