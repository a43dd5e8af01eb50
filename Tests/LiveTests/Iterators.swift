import Glibc
import Testing

extension Live {
  /// Where there is very much to look at, the kernel's own lists are asked. The images are the same.
  @Suite struct Iterators {
    @Test func theImagesAreTheSame() throws {
      try LiveProgram(name: "numerous").run { job in
        for use in ["auto", "never"] {
          let outcome = try job.tryDump(["--leave-running", "--kernel-iterators", use], to: job.path(use))
          #expect(outcome.code == 0, "\(use): \(outcome.errors)")
        }
        // What a thread is about to do is another thing each time.
        let kinds = ["files", "fdinfo", "mm", "pipes-data", "fs", "ids", "pstree", "seccomp"]
        let names = Files.names(job.path("auto")).filter { name in kinds.contains { name.hasPrefix($0) } && name.hasSuffix(".img") }
        #expect(names.count >= 7, "\(names)")
        for name in names {
          let isSame = Files.bytes(job.path("auto/\(name)")) == Files.bytes(job.path("never/\(name)"))
          #expect(isSame, "\(name) differs")
        }
        try job.cycle()
      }
    }

    /// A thread among many that has descriptors of its own, which is not supported yet, is found.
    @Test func oneThreadOfManyIsAlone() throws {
      let alone = """
        import ctypes, threading, time
        threading.stack_size(65536)
        def lonely():
            assert ctypes.CDLL(None).unshare(0x400) == 0
            open("started", "w").close()
            time.sleep(1000)
        for _ in range(300): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        threading.Thread(target=lonely, daemon=True).start()
        time.sleep(1000)
        """
      try Job.run(["/usr/bin/python3", "-c", alone], named: "alone") { job in
        try job.waitFor("started")
        let outcome = try job.tryDump()
        #expect(outcome.code == 1 && outcome.errors.contains("unshare-files"), "\(outcome.errors)")
      }
    }
  }
}
