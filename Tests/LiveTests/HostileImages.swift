import Checkpoint
import Glibc
import SystemPackage
import Testing

extension Live {
  /// Images that say what no dump writes. Those that scripts/fuzz found ended in a trap.
  @Suite struct HostileImages {
    /// Dumps a program, has `change` spoil its images, and expects a refusal that says which of them is wrong and leaves nothing.
    private func refuse(_ program: String, _ words: String..., change: (borrowing ImageDirectory, Job) throws -> Void) throws {
      try LiveProgram(name: program).run { job in
        try job.dump()
        let copy = job.path("whole")
        mkdir(copy, 0o700)
        for name in Files.names(job.images) { try Files.write(Files.bytes("\(job.images)/\(name)") ?? [], to: "\(copy)/\(name)") }
        try change(ImageDirectory(opening: FilePath(job.images)), job)
        let outcome = try job.tryRestore(["--no-verify"])
        #expect(outcome.code == 1, "\(outcome)")
        for word in words { #expect(outcome.errors.contains(word), "\(word) is not in: \(outcome.errors)") }
        #expect(outcome.errors.split(separator: "\n").count == 2, "\(outcome.errors)")
        try job.expectNothingLeft()
        let restored = try job.tryRestore(from: copy)
        #expect(restored.code == 0, "\(restored.errors)")
      }
    }

    private func alter<Message: ImageMessage>(
      _ file: ImageFile, of folder: borrowing ImageDirectory, _ change: (inout [Message]) -> Void
    ) throws {
      var messages = try folder.readAll(Message.self, from: file)
      change(&messages)
      var buffer = ImageBuffer()
      try folder.write(messages, to: file, using: &buffer)
    }

    /// Numbers of images of the kind "mountpoints-".
    private func number(_ stem: String, in folder: String) throws -> UInt32 {
      let name = try #require(Files.names(folder).first { $0.hasPrefix(stem) })
      return try #require(UInt32(name.dropFirst(stem.count).prefix { $0.isNumber }))
    }

    @Test func fileSystemOfAnUnheardOfType() throws {
      try refuse("ns_mnt", "mountpoints-", "(mount)") { folder, job in
        try alter(.mountpoints(try number("mountpoints-", in: job.images)), of: folder) { (mounts: inout [MntEntry]) in
          mounts[mounts.count - 1].fstype = .max
          mounts[mounts.count - 1].isOuter = false
        }
      }
    }

    @Test func sharedMemoryThatReachesBeyondAllFiles() throws {
      try refuse("map_shared_anon", "mm-", "pgoff") { folder, job in
        try alter(.mm(UInt32(job.pid)), of: folder) { (memory: inout [MmEntry]) in
          for i in memory[0].vmas.indices where memory[0].vmas[i].status & 1 << 8 != 0 { memory[0].vmas[i].pgoff = .max - 4095 }
        }
      }
    }

    /// Pages that lie next to each other in memory and in the image are one entry for other writers, whatever mappings they are of.
    @Test func pagesOfSeveralMappingsInOneEntry() throws {
      try LiveProgram(name: "mem_patchwork").run { job in
        try job.dump()
        let folder = try ImageDirectory(opening: FilePath(job.images))
        let file = ImageFile.pagemap(try number("pagemap-", in: job.images))
        var reader = try ImageReader(file, in: folder)
        let head = try #require(try reader.next(PagemapHead.self))
        let entries = try reader.rest(PagemapEntry.self)
        var merged: [PagemapEntry] = []
        for entry in entries {
          let pages = entry.nrPages ?? UInt64(entry.compatNrPages)
          if let last = merged.last, let before = last.nrPages, last.vaddr + before * 4096 == entry.vaddr, last.flags == entry.flags {
            merged[merged.count - 1].nrPages = before + pages
            merged[merged.count - 1].compatNrPages = UInt32(before + pages)
          } else {
            merged.append(entry)
          }
        }
        #expect(merged.count < entries.count - 500)
        var writer = try ImageWriter(file, in: folder)
        try writer.append(head)
        for entry in merged { try writer.append(entry) }
        _ = try writer.finish()
        let restored = try job.tryRestore(["--no-verify"])
        try #require(restored.code == 0, "\(restored.errors)")
      }
    }

    /// A descriptor that says that it is of a regular file, whose description is of another kind, with the part of a file beside its own:
    /// what it is of says the description, and what belongs to another kind is nothing to it.
    @Test func descriptorOfAnotherKindThanItsDescription() throws {
      try LiveProgram(name: "timerfds").run { job in
        try job.dump()
        let folder = try ImageDirectory(opening: FilePath(job.images))
        var changed: Set<UInt32> = []
        try alter(.files, of: folder) { (files: inout [FileEntry]) in
          for i in files.indices where files[i].type == .timerfd {
            files[i].reg = RegFileEntry()
            files[i].reg?.name = Array(repeating: UInt8(ascii: "x"), count: 100_000)
            changed.insert(files[i].id)
          }
        }
        #expect(!changed.isEmpty)
        try alter(.fdinfo(try number("fdinfo-", in: job.images)), of: folder) { (descriptors: inout [FdinfoEntry]) in
          for i in descriptors.indices where changed.contains(descriptors[i].id) { descriptors[i].type = .reg }
        }
        let restored = try job.tryRestore(["--no-verify"])
        try #require(restored.code == 0, "\(restored.errors)")
      }
    }

    @Test func ghostWithAChunkOfNegativeLength() throws {
      try refuse("ghost_file", "ghost-file-") { folder, job in
        let ghost = ImageFile.ghostFile(try number("ghost-file-", in: job.images))
        var reader = try ImageReader(ghost, in: folder)
        let head = try #require(try reader.next(GhostFileEntry.self))
        var writer = try ImageWriter(ghost, in: folder)
        try writer.append(head)
        var chunk = GhostChunkEntry()
        (chunk.off, chunk.len) = (4096, .max)
        try writer.append(chunk)
        _ = try writer.finish()
      }
    }

    /// A restore takes away the names that the dump gave to files without one; an image cannot have it take away any other.
    @Test func nameThatIsNotADumpsOwn() throws {
      try LiveProgram(name: "ghost_linked").run { job in
        try job.dump()
        let folder = try ImageDirectory(opening: FilePath(job.images))
        let precious = job.path("precious")
        let remaps = try folder.readAll(RemapFilePathEntry.self, from: .remapFilePath)
        var files = try folder.readAll(FileEntry.self, from: .files)
        let at = try #require(files.firstIndex { $0.id == remaps[0].remapId })
        let given = String(decoding: try #require(files[at].reg).name, as: UTF8.self)
        #expect(Files.exists(given))
        #expect(link(given, precious) == 0)
        files[at].reg?.name = Array(precious.utf8)
        var buffer = ImageBuffer()
        try folder.write(files, to: .files, using: &buffer)
        try job.restore("--no-verify")
        #expect(Files.exists(precious))
        // The program counts its file's links.
        unlink(precious)
        unlink(given)
      }
    }
  }
}
