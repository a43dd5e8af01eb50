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
        // All of a thread but its registers.
        let comparison = """
          import glob, os, sys
          from pycriu import images
          def core(path):
              entry = images.load(open(path, 'rb'))['entries'][0]
              return entry['thread_core'], entry['thread_info']['clear_tid_addr']
          files = glob.glob(sys.argv[1] + '/core-*.img')
          unequal = [f for f in files if core(f) != core(os.path.join(sys.argv[2], os.path.basename(f)))]
          print(len(files), unequal[:3])
          sys.exit(len(files) != 201 or len(unequal) > 0)
          """
        let python = try Processes.start(
          ["/usr/bin/python3", "-c", comparison, job.path("auto"), job.path("never")], in: job.images, output: job.path("compared"),
          errors: job.path("errors"), newSession: false)
        #expect(Processes.wait(for: python, seconds: 60)?.code == 0, "\(Files.text(job.path("compared")) ?? "")")
        try job.cycle()
      }
    }

    /// Both threads of the tool look at the same things, or wait for each other, however few processors there are.
    @Test func nothingIsMissingOnOneProcessor() throws {
      let holding = """
        import time
        files = [open("/dev/zero") for _ in range(400)]
        open("started", "w").close()
        time.sleep(1000)
        """
      try Job.run(["/usr/bin/python3", "-c", holding], named: "one-processor") { job in
        try job.waitFor("started")
        for round in 0..<40 {
          let outcome = try job.tryDump(["--leave-running"], to: job.path("round"), prefix: ["/usr/bin/taskset", "-c", "0"])
          #expect(outcome.code == 0, "\(round): \(outcome.errors)")
          let check = try Tool.run(["check", "--images", job.path("round")])
          #expect(check.code == 0, "\(round): \(check.errors)")
          let names = Files.names(job.path("round"))
          #expect(names.contains("pages-1.img") && names.contains("pagemap-\(job.pid).img"), "\(round): the memory is missing")
          Files.remove(job.path("round"))
        }
      }
    }

    /// The kernel's list ends where its buffer is full (kernel/bpf/bpf_iter.c: prepare_seq_file): 2047 records of two words, and so on.
    @Test(arguments: [2045, 4092, 4093, 4094, 4095, 6141])
    func listsEndAnywhere(_ count: Int) throws {
      let mapping = """
        import ctypes, mmap, sys, time
        c = ctypes.CDLL(None, use_errno=True)
        c.mmap.restype = ctypes.c_void_p
        c.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
        def count(): return sum(1 for line in open("/proc/self/maps") if "vsyscall" not in line)
        base = c.mmap(None, 8192 * 4096, 0, 0x4022, -1, 0)
        wanted, at = int(sys.argv[1]), base + 4096
        while True:
            missing = wanted - count()
            if missing < 2: break
            for _ in range(missing // 2):
                c.mprotect(ctypes.c_void_p(at), 4096, 1)
                at += 8192
        if missing: c.mprotect(ctypes.c_void_p(base), 4096, 3)
        with open("started", "w") as f: f.write(str(count()))
        time.sleep(1000)
        """
      try Job.run(["/usr/bin/python3", "-c", mapping, "\(count)"], named: "ends-\(count)") { job in
        try job.waitFor("started")
        try job.dump()
        try job.restore()
      }
    }

    /// A thread among many that has descriptors of its own is found, and the dump refused for it by name.
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
