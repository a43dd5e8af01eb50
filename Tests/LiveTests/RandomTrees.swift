import Glibc
import ProcessTree
import Testing

extension Live {
  /// Random process trees, grown by real system calls, come back with every ID at every level.
  @Suite struct RandomTrees {
    /// How many there are by each method; `LIVE_TREE_COUNT` asks for another number.
    private static let count = getenv("LIVE_TREE_COUNT").flatMap { Int(String(cString: $0)) }
    private static let firstSeed = getenv("LIVE_TREE_SEED").flatMap { UInt64(String(cString: $0)) } ?? 1

    @Test func setTID() throws { try run(Self.count ?? 300, []) }
    @Test func nsLastPID() throws { try run(Self.count ?? 300, ["--pid-method", "ns-last-pid", "--pid-retries", "100"]) }

    private func run(_ count: Int, _ options: [String]) throws {
      let tools = try Files.makeTemporaryFolder("orchards")
      defer { Files.remove(tools) }
      let program = try Orchard.compile(in: tools)
      var (whole, refused, taken, seed) = (0, 0, 0, Self.firstSeed)
      while whole < count, taken <= count {
        defer { seed += 1 }
        var limits = RandomHistory.Limits()
        (limits.tasks, limits.innerLevels, limits.namespacesPerLevel) = (30, 3, 3)
        limits.sharedMemory = false
        let history = try RandomHistory(seed: seed, limits: limits)
        guard history.isSelfContained, history.tree.canEnd else { continue }
        do {
          switch try cycle(history, program, options) {
          case true?: whole += 1
          case false?: refused += 1
          case nil: taken += 1
          }
        } catch {
          throw LiveFailure("seed \(seed): \(error)")
        }
      }
      #expect(whole == count, "\(taken) trees could not be tried")
      // The schedule refuses a few trees that are possible, and may not grow in that.
      #expect(refused * 50 <= count, "\(refused) of \(count + refused) trees were refused")
    }

    /// Whether the tree could be dumped; if it could not, it must be as before. `nil`: it is none for this test, or
    /// somebody else took a PID meanwhile.
    private func cycle(_ history: RandomHistory, _ program: String, _ options: [String]) throws -> Bool? {
      let orchard = try Orchard(history, program: program)
      defer { orchard.end() }
      let before = LiveTree(of: orchard.root)
      let images = orchard.folder + "/images"
      let dump = try Tool.run(["dump", "--pid", "\(orchard.root)", "--images", images, "--shell-job"])
      // Threads with tables of their own are refused by name, which is no matter of PIDs.
      if dump.errors.contains("(unshare-f") { return nil }
      guard dump.code == 0 else {
        guard dump.errors.contains("(fork schedule)") else { throw LiveFailure("dump exits \(dump.code): \(dump.errors)\n\(before)") }
        let after = LiveTree(of: orchard.root)
        if after != before { throw LiveFailure("a refused tree has changed:\n\(before)\nis now\n\(after)") }
        return false
      }
      try orchard.expectGone()
      let restore = try Tool.run(["restore", "--images", images, "--shell-job", "--detach"] + options)
      // A machine has other processes, and one of them may have the PID by now; or is the one that runs these tests, whose group some
      // of the tree have stayed in.
      let isTaken = ["EEXIST", "has it", "waits for swift-restore"].contains { restore.errors.contains($0) }
      if restore.code != 0, isTaken { return nil }
      guard restore.code == 0 else { throw LiveFailure("restore: \(restore.errors)\n\(before)") }
      let after = LiveTree(of: orchard.root)
      if after != before { throw LiveFailure("the tree was\n\(before)\nand is\n\(after)") }
      return true
    }
  }
}

extension RecordedTree {
  /// Whether the kernel can ever end it. An init in a process group that another task of its namespace has led is waited for by
  /// itself: its own membership keeps the group's PID allocated (kernel/pid_namespace.c: zap_pid_ns_processes).
  fileprivate var canEnd: Bool {
    let inits = tasks.filter { $0.pids.last == .one }
    return inits.allSatisfy { $0.group.last == .one || $0.group.last == .invisible }
  }
}
