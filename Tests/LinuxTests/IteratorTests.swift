import CLinux
import Glibc
import SystemPackage
import Testing

@testable import Linux

/// Not whether ours are accepted, which is what is tested.
private let canBeUsed = access("/sys/kernel/btf/vmlinux", R_OK) == 0 && Capabilities.own.isSuperset(of: [.bpf, .perfmon])

/// The kernel's own lists, compared with what else tells the same. Serialized: all look at this process.
@Suite(.serialized, .enabled(if: canBeUsed, "this kernel has no BTF, or does not let us load programs"))
struct IteratorTests {
  private func ownMappings(_ name: String) throws -> [Mapping] {
    let file = try Descriptor.open("/proc/self/\(name)")
    return try Mapping.readAll(file.rawValue, ReadBuffer())
  }

  /// A few mappings with each advice: of each the flags are those that smaps shows.
  @Test func mappingsHaveTheFlagsOfSmaps() throws {
    // madvise(2): normal, random, sequential, dontfork, mergeable, hugepage, nohugepage, dontdump, wipeonfork
    let advices: [Int32] = [0, 1, 2, 10, 12, 14, 15, 16, 18]
    let length = 16 * pageSize
    var made: [UnsafeMutableRawPointer] = []
    defer { for address in made { munmap(address, length) } }
    for advice in advices {
      let address = try #require(mmap(nil, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))
      made.append(address)
      mprotect(address + length - pageSize, pageSize, PROT_NONE)
      madvise(address, length - pageSize, advice)
    }
    #expect(mlock(made[0], pageSize) == 0)
    // What is allocated in between may change a mapping: then once more.
    for round in 0..<10 {
      let before = try ownMappings("smaps")
      let flags = MappingFlags(of: getpid(), agreeingWith: [])
      guard try ownMappings("smaps") == before || round == 9 else { continue }
      let told = try #require(flags)
      for (i, mapping) in before.enumerated() { #expect(told.flags(of: mapping, at: i) == mapping.flags, "\(mapping)") }
      #expect(Set(before.map(\.flags)).count > advices.count)
      break
    }
  }

  /// Whoever calls the flags otherwise than they are known here is believed.
  @Test func flagsThatDisagreeAreNotTaken() throws {
    var known = try ownMappings("smaps")[0..<1]
    known[0].flags.formSymmetricDifference(.growsDown)
    #expect(MappingFlags(of: getpid(), agreeingWith: known) == nil)
  }

  @Test func descriptorsAreWhatTheySayThemselves() throws {
    let path = "/tmp/iterator-\(getpid())"
    let file = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    var ends: [Int32] = [0, 0]
    defer { for fd in [file] + ends { close(fd) } }
    #expect(unlink(path) == 0)
    #expect(write(file, "seven..", 7) == 7)
    #expect(pipe(&ends) == 0)
    let again = dup(file)
    defer { close(again) }
    _ = fcntl(ends[1], F_SETFL, O_NONBLOCK)
    // The iterator has two of its own while it is read, and keeps one.
    #expect(OpenFiles.canBeAsked)
    let count = Int(try fstat(at: AT_FDCWD, "/proc/self/fd").st_size) + 2
    let all = Array(try #require(OpenFiles(of: getpid(), count: count)))
    #expect(all.count == count && all.map(\.number) == all.map(\.number).sorted())
    func found(_ number: Int32) throws -> OpenFile { try #require(all.first { $0.number == number }) }

    let (first, second) = (try found(file), try found(again))
    let status = try fstat(at: file)
    let (reading, writing) = (try found(ends[0]), try found(ends[1]))
    #expect(first.address == second.address)
    #expect(first.address != reading.address)
    #expect(first.closesOnExec && !second.closesOnExec)
    #expect(first.position == 7 && first.flags == UInt32(bitPattern: fcntl(file, F_GETFL)))
    #expect(first.inodeNumber == UInt64(status.st_ino))
    #expect(first.device == UInt64(status.st_dev))
    #expect(first.fileMode == status.st_mode)
    #expect(!first.hasOwner && !first.hasLocks)
    #expect(reading.emptyPipeSize == UInt32(fcntl(ends[0], 1032 /* F_GETPIPE_SZ */)))
    #expect(writing.flags & UInt32(O_NONBLOCK) != 0 && reading.flags & UInt32(O_NONBLOCK) == 0)

    // What changes is seen.
    #expect(write(ends[1], "x", 1) == 1)
    #expect(fcntl(file, 8 /* F_SETOWN */, getpid()) == 0)
    #expect(flock(file, LOCK_SH) == 0)
    let later = Array(try #require(OpenFiles(of: getpid(), count: count)))
    #expect(later.first { $0.number == ends[0] }?.emptyPipeSize == nil)
    #expect(later.first { $0.number == file }?.hasOwner == true && later.first { $0.number == file }?.hasLocks == true)
    // So is that there are others than was said.
    #expect(OpenFiles(of: getpid(), count: count + 1) == nil)
  }

  /// Two threads like any other, and one that has its own descriptors and directories.
  @Test func threadsThatHaveSomethingOfTheirOwnAreSeen() throws {
    // Where it can be told: numbers of an inner namespace are not the kernel's.
    let threads = [false, false, true].map { Resting(alone: $0) }
    defer { for thread in threads { thread.end() } }
    let known = try #require(KernelThreads(of: getpid()))
    #expect(known.thread(threads[0].tid, like: threads[1].tid) != nil)
    #expect(known.thread(threads[0].tid, like: getpid()) != nil)
    #expect(known.thread(threads[0].tid, like: threads[2].tid) == nil)
    #expect(known.thread(threads[0].tid, like: 0) == nil)
  }

  /// What a thread has for itself: glibc registers a restartable sequence and a robust list for each, and has its TID cleared.
  @Test func threadsHaveWhatTheyHaveForThemselves() throws {
    let threads = [Resting(alone: false), Resting(alone: false, name: "fifteen letters"), Resting(alone: false, slack: 77_777)]
    defer { for thread in threads { thread.end() } }
    let known = try #require(KernelThreads(of: getpid()))
    let noted = try threads.map { try #require(known.thread($0.tid, like: getpid())) }
    let (first, second) = (noted[0], noted[1])
    #expect(first.rseq.address != 0 && first.rseq.address != second.rseq.address)
    // include/uapi/linux/rseq.h, and RSEQ_SIG of glibc
    #expect(first.rseq.size >= 20 && first.rseq.signature == 0x5305_3053)
    #expect(first.robustList != 0 && first.robustList != second.robustList)
    #expect(first.clearTID != 0 && first.clearTID != second.clearTID)
    // A sanitizer gives each one a stack.
    #expect(first.alternateStack.address == threads[0].stack && second.alternateStack.address == threads[1].stack)
    #expect(second.name == Array("fifteen letters".utf8) && first.name != second.name)
    // Only that which is not its own counts.
    #expect(first.isLike(second) && !first.isLike(noted[2]))
  }

  /// A thread that waits, with a table of descriptors of its own or not, and with a name or timer slack of its own.
  private final class Resting: @unchecked Sendable {
    private(set) var tid: Int32 = 0
    /// Where it has its alternate signal stack, as it says itself.
    private(set) var stack: UInt64 = 0
    private let begun = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
    private let ended = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
    private let alone: Bool
    private let name: StaticString?
    private let slack: Int?
    private var thread = pthread_t()

    init(alone: Bool, name: StaticString? = nil, slack: Int? = nil) {
      self.alone = alone
      self.name = name
      self.slack = slack
      sem_init(begun, 0, 0)
      sem_init(ended, 0, 0)
      let context = Unmanaged.passUnretained(self).toOpaque()
      pthread_create(
        &thread, nil,
        { context in
          let own = Unmanaged<Resting>.fromOpaque(context!).takeUnretainedValue()
          own.tid = Int32((try? syscall(__NR_gettid)) ?? 0)
          if own.alone { _ = try? syscall(__NR_unshare, 0x400 /* CLONE_FILES */) }
          if let name = own.name { _ = try? syscall(__NR_prctl, 15 /* PR_SET_NAME */, Int(bitPattern: name.utf8Start)) }
          if let slack = own.slack { _ = try? syscall(__NR_prctl, 29 /* PR_SET_TIMERSLACK */, slack) }
          var stack = stack_t()
          sigaltstack(nil, &stack)
          own.stack = UInt64(UInt(bitPattern: stack.ss_sp))
          sem_post(own.begun)
          sem_wait(own.ended)
          return nil
        }, context)
      sem_wait(begun)
    }

    func end() {
      sem_post(ended)
      pthread_join(thread, nil)
    }
  }
}
