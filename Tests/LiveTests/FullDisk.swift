import Glibc
import Testing

extension Live {
  /// The folder of the images becomes full at every write and at every new file of a dump: it says so, the tree lives, and what is
  /// in the folder does not look complete.
  @Suite struct FullDisk {
    enum Limit: String, CaseIterable { case size, nr_inodes }

    @Test(arguments: Limit.allCases)
    func everywhere(_ limit: Limit) throws {
      try LiveProgram(name: "fixtures/five").run { job in
        let disk = job.path("disk")
        mkdir(disk, 0o700)
        guard mount("none", disk, "tmpfs", 0, "size=4k") == 0 else { throw LiveFailure("cannot mount a tmpfs") }
        defer { umount2(disk, Int32(MNT_DETACH)) }
        let tree = Processes.tree(of: job.pid)
        let before = Condition(of: tree)
        var amount = 2
        while true {
          let option = limit == .size ? "size=\(4 * amount)k,nr_inodes=0" : "size=0,nr_inodes=\(amount)"
          guard mount("none", disk, "tmpfs", UInt(MS_REMOUNT), option) == 0 else { throw LiveFailure("remount \(option)") }
          let outcome = try Tool.run(["dump", "-t", "\(job.pid)", "-D", disk, "-R"])
          if outcome.code == 0 { break }
          #expect(outcome.code == 1)
          #expect(outcome.errors.contains("ENOSPC") && outcome.errors.split(separator: "\n").count == 2, "\(option): \(outcome.errors)")
          #expect(!Files.exists(disk + "/inventory.img"), "\(option)")
          let changes = before.lastingChanges(of: tree)
          #expect(changes.isEmpty, "\(option)")
          if !changes.isEmpty { break }
          for name in Files.names(disk) { Files.remove("\(disk)/\(name)") }
          // Most files are small; the pages of memory are not.
          amount += limit == .size && amount > 64 ? 24 : 1
        }
        #expect(Files.exists(disk + "/inventory.img"))
        #expect(amount > 20, "\(amount)")
      }
    }
  }
}
