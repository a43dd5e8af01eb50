import Glibc
import SystemPackage
import Testing

@testable import Checkpoint

extension Live {
  /// Images of another kernel, as far as this one can show it: the recorded vDSO is made a different one.
  @Suite struct ForeignVDSO {
    /// The symbol tables stay, so that what the program has looked up is right; the code is gone, so that only what is forwarded
    /// can work. That kernel's data were of another size, too.
    @Test func itsFunctionsAreForwarded() throws {
      try LiveProgram(name: "vdso_sleeper").run { job in
        try job.dump()
        try spoil(job)
        // The checksums would say that it was changed.
        try job.restore("--no-verify")
        // And once more, now with the old one as memory beside this kernel's.
        try job.cycle()
      }
    }

    @Test func threadInTheMiddleOfItIsRefused() throws {
      try Job.run(
        ["/usr/bin/python3", "-c", "import time\nopen('started','w').close()\nwhile True: time.clock_gettime(1)"], named: "inside"
      ) { job in
        try job.waitFor("started")
        // It spends about every tenth instant there.
        for _ in 0..<400 {
          try job.dump("--leave-running")
          let images = try ImageDirectory(opening: FilePath(job.images))
          let vdso = try #require(try images.read(MmEntry.self, from: .mm(UInt32(job.pid))).vmas.first { $0.status & 1 << 3 != 0 })
          let ip = try #require(try images.read(CoreEntry.self, from: .core(UInt32(job.pid))).threadInfo?.gpregs.ip)
          guard (vdso.start..<vdso.end).contains(ip) else { continue }
          try job.killTree()
          try spoil(job)
          let outcome = try job.tryRestore(["--no-verify"])
          #expect(outcome.code == 1 && outcome.errors.contains("vdso-patch"), "\(outcome.errors)")
          try job.expectNothingLeft()
          return
        }
        Issue.record("never frozen inside the vDSO")
      }
    }

    /// Fills the code of the recorded vDSO with int3, and makes the mapping of its data smaller.
    private func spoil(_ job: Job) throws {
      for pid in job.tree.map(UInt32.init) {
        let images = try ImageDirectory(opening: FilePath(job.images))
        var memory = try images.read(MmEntry.self, from: .mm(pid))
        let vdso = try #require(memory.vmas.first { $0.status & 1 << 3 != 0 })
        let data = try #require(memory.vmas.firstIndex { $0.status & 1 << 12 != 0 })
        memory.vmas[data].start += 4096
        var reader = try ImageReader(.pagemap(pid), in: images)
        let head = try #require(try reader.next(PagemapHead.self))
        var offset: UInt64 = 0
        while let entry = try reader.next(PagemapEntry.self), entry.vaddr != vdso.start {
          offset += (entry.nrPages ?? UInt64(entry.compatNrPages)) * 4096
        }
        unlink("\(job.images)/mm-\(pid).img")
        var buffer = ImageBuffer()
        try images.write(memory, to: .mm(pid), using: &buffer)
        try fillCode(of: "\(job.images)/pages-\(head.pagesId).img", at: Int(offset), count: Int(vdso.end - vdso.start))
      }
    }

    /// Overwrites what is executable in an ELF file that is a part of another.
    private func fillCode(of path: String, at start: Int, count: Int) throws {
      var pages = try #require(Files.bytes(path))
      func load<T: FixedWidthInteger>(_ type: T.Type, _ offset: Int) -> Int {
        Int(pages.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: start + offset, as: type) })
      }
      try #require(pages[start..<start + 4].elementsEqual([0x7f, 0x45, 0x4c, 0x46]))
      var filled = 0
      for i in 0..<load(UInt16.self, 60) {
        let section = load(UInt64.self, 40) + i * load(UInt16.self, 58)
        guard load(UInt64.self, section + 8) & 4 != 0 else { continue }  // SHF_EXECINSTR
        let offset = start + load(UInt64.self, section + 24)
        let size = load(UInt64.self, section + 32)
        pages.replaceSubrange(offset..<offset + size, with: repeatElement(0xcc, count: size))
        filled += size
      }
      #expect(filled > 1000)
      try Files.write(pages, to: path)
    }
  }
}
