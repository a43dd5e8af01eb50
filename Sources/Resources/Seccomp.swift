import CLinux
import Checkpoint
import Linux
import SystemPackage
import Tracee

/// Seccomp modes and filters, per thread (man 2 seccomp). Filters form a tree: a child's chain begins with its parent's;
/// `seccomp.img` holds each once, and a thread names the newest of its chain.
public struct SeccompFilters {
  private var filters: [SeccompFilter] = []

  public init() {}

  public var image: SeccompEntry {
    var entry = SeccompEntry()
    entry.seccompFilters = filters
    return entry
  }

  /// Records a thread's mode and chain. Reading filters needs CAP_SYS_ADMIN.
  public mutating func record(_ thread: DumpedThread, into core: inout CoreEntry) throws(Failure) {
    core.thread.seccompMode = SeccompMode(rawValue: Int32(thread.status.seccompMode))
    guard thread.status.seccompMode == 2 else { return }
    let tid = thread.traced.tid
    var newestFirst: [(program: [UInt8], flags: UInt64)] = []
    do throws(Errno) {
      while let program = try Ptrace.seccompFilter(tid, newestFirst.count) {
        newestFirst.append((program, try Ptrace.seccompFilterFlags(tid, newestFirst.count)))
      }
    } catch {
      throw Failure(
        "task \(tid): reading its seccomp filters: PTRACE_SECCOMP_GET_FILTER", error,
        advice: "This needs CAP_SYS_ADMIN, and a swift-restore that is not itself under seccomp.")
    }
    var previous: UInt32?
    for filter in newestFirst.reversed() {
      var entry = SeccompFilter()
      entry.filter = filter.program
      entry.flags = UInt32(truncatingIfNeeded: filter.flags)
      entry.prev = previous
      // Filters are few, and shared by whole trees.
      if let number = filters.firstIndex(of: entry) {
        previous = UInt32(number)
      } else {
        previous = UInt32(filters.count)
        filters.append(entry)
      }
    }
    core.thread.seccompFilter = previous
  }

  /// Appends the calls that put a thread under its filters, oldest first. They must be suspended
  /// (PTRACE_O_SUSPEND_SECCOMP) if anything is to run after them.
  public static func restore(_ thread: RestoredThread, _ image: SeccompEntry, _ program: inout SyscallProgram)
    throws(Failure)
  {
    switch thread.core.thread.seccompMode?.rawValue ?? 0 {
    case 0: return
    case 1: program.call(__NR_prctl, 22 /* PR_SET_SECCOMP */, 1, for: "entering seccomp's strict mode")
    case 2:
      for filter in try chain(of: thread, image) {
        // struct sock_fprog: u16 length in instructions, pointer
        let address = program.place(filter.filter)
        let header = program.place((UInt64(filter.filter.count / 8), address))
        program.call(
          __NR_seccomp, 1 /* SECCOMP_SET_MODE_FILTER */, Argument(filter.flags ?? 0), Argument(header),
          for: "installing a seccomp filter")
      }
    default:
      throw Failure(
        "core-\(thread.tid).img: seccomp_mode \(thread.core.thread.seccompMode?.rawValue ?? 0) is not known")
    }
  }

  /// Oldest first.
  public static func chain(of thread: RestoredThread, _ image: SeccompEntry) throws(Failure)
    -> [SeccompFilter]
  {
    var chain: [SeccompFilter] = []
    var next = thread.core.thread.seccompFilter
    while let number = next {
      guard Int(number) < image.seccompFilters.count, chain.count < image.seccompFilters.count else {
        throw Failure(
          "seccomp.img: filter \(number), named by core-\(thread.tid).img, is missing or follows itself")
      }
      let filter = image.seccompFilters[Int(number)]
      guard filter.filter.count % 8 == 0, filter.filter.count <= 8 * 4096, !filter.filter.isEmpty else {
        throw Failure("seccomp.img: filter \(number) is not a BPF program: \(filter.filter.count) bytes")
      }
      chain.append(filter)
      next = filter.prev
    }
    return chain.reversed()
  }
}
