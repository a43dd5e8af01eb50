import CLinux
import Checkpoint
import Glibc
import Linux
import Synchronization
import SystemPackage
import Tracee

/// A descriptor of a process under dump.
public struct DumpedDescriptor {
  public let number: Int32
  let file: DumpedDescription
  /// FD_CLOEXEC; `nil` if it is still to be asked of the task.
  var closesOnExec: Bool?
}

/// A file description of the tree under dump, which many descriptors may name.
final class DumpedDescription {
  let file: DumpedFile
  let kind: any FileKind.Type
  private var known: UInt32?

  init(_ file: DumpedFile, _ kind: any FileKind.Type) {
    self.file = file
    self.kind = kind
  }

  /// Its number in `files.img`; recorded if it is asked for the first time.
  func id(_ dump: DumpContext) throws(Failure) -> UInt32 {
    if let known { return known }
    let id = try dump.files.id(of: file, kind: kind, dump)
    known = id
    return id
  }
}

/// A duplicate of a description of the tree, which is kept to be compared with others while all is frozen. Afterwards it would be in
/// the way: whoever waits for the last descriptor of a file to be closed, would wait for this one.
final class KeptDuplicate: Sendable {
  static let pid = getpid()
  private static let count = Atomic(0)
  /// So many at a time, and none where most of the descriptors that there can be are taken.
  private static let most = min(limit / 8, 2048)
  private static let limit = DescriptorRoom.limit

  private let descriptor: Descriptor
  var number: Int32 { descriptor.rawValue }

  private init(_ descriptor: consuming Descriptor) { self.descriptor = descriptor }

  deinit { Self.count.subtract(1, ordering: .relaxed) }

  /// Another duplicate, at a higher number: in `/proc/self/fd` a number is looked up much sooner if it was there before. `nil`: there
  /// are enough.
  static func of(_ descriptor: borrowing Descriptor) -> KeptDuplicate? {
    guard count.add(1, ordering: .relaxed).newValue <= most,
      let kept = try? syscall(__NR_fcntl, Int(descriptor.rawValue), 1030 /* F_DUPFD_CLOEXEC */, most)
    else {
      count.subtract(1, ordering: .relaxed)
      return nil
    }
    let duplicate = KeptDuplicate(Descriptor(Int32(kept)))
    return kept < limit / 4 * 3 ? duplicate : nil
  }
}

/// Finds out what a description is. A duplicate tells it at a tenth of the price of the same from `/proc`, where what only some
/// kinds have is read.
final class DescriptorExaminer {
  private let task: DumpedTask
  private let pidfd: Descriptor
  /// `/proc/PID/fdinfo`
  private let infos: Descriptor
  /// `/proc/self/fd`: the name of a duplicate is found there sooner than that of the original at its place.
  private let names: Descriptor

  init(_ task: DumpedTask) throws(Failure) {
    self.task = task
    pidfd = try about("\(task.description): pidfd_open") { () throws(Errno) in try pidfdOpen(task.pid) }
    infos = try about("\(task.description): fdinfo") { () throws(Errno) in
      try task.directory.open("fdinfo", O_RDONLY | O_DIRECTORY)
    }
    names = try about("/proc/self/fd") { () throws(Errno) in try Descriptor.open("/proc/self/fd", O_PATH | O_DIRECTORY) }
  }

  /// A descriptor, the file, and whether the descriptor closes on exec; `nil`: the task must be asked.
  typealias Examined = (number: Int32, file: DumpedFile, closesOnExec: Bool?)

  /// Numbers among which all descriptors are, in ascending order; `count` of them are in use.
  func candidates(_ count: Int, _ buffer: ReadBuffer) throws(Failure) -> [Int32] {
    // To ask for a number that is not used takes a tenth of the time in which a listing shows one that is.
    if count > 0, task.status.tableSize / 8 <= count { return Array(0..<task.status.tableSize) }
    return try about("\(task.description): reading its descriptors") { () throws(Errno) in
      try task.directory.numbers(in: "fd", buffer).sorted()
    }
  }

  private static let numbersAtOnce = 64

  /// Examines those of some numbers that are in use; many by turns with the companion.
  func examine(_ numbers: [Int32], _ buffer: ReadBuffer, _ companion: Companion) throws(Failure) -> [Examined] {
    if numbers.count < 2 * Self.numbersAtOnce { return try examine(numbers[...], buffer) }
    companion.hire()
    let parts = stride(from: 0, to: numbers.count, by: Self.numbersAtOnce).map {
      numbers[$0..<min($0 + Self.numbersAtOnce, numbers.count)]
    }
    let turns = Turns(parts.count)
    typealias Part = (turn: Int, list: [Examined])
    func takeParts(_ buffer: ReadBuffer) throws(Failure) -> [Part] {
      var taken: [Part] = []
      while let turn = turns.next() { taken.append((turn, try examine(parts[turn], buffer))) }
      return taken
    }
    var (mine, theirs): ([Part], [Part]) = ([], [])
    try companion.share(
      { () throws(Failure) in mine = try takeParts(buffer) },
      { () throws(Failure) in theirs = try takeParts(ReadBuffer()) })
    return (mine + theirs).sorted { $0.turn < $1.turn }.flatMap(\.list)
  }

  private func examine(_ numbers: ArraySlice<Int32>, _ buffer: ReadBuffer) throws(Failure) -> [Examined] {
    var list: [Examined] = []
    list.reserveCapacity(numbers.count)
    for number in numbers {
      let examined = try about("\(task.description): descriptor \(number)") { () throws(Errno) in try examine(number, buffer) }
      if let examined { list.append(examined) }
    }
    return list
  }

  /// `nil`: there is no such descriptor.
  private func examine(_ number: Int32, _ buffer: ReadBuffer) throws(Errno) -> Examined? {
    let duplicate: Descriptor
    do throws(Errno) {
      duplicate = try pidfdGetfd(pidfd.rawValue, number)
    } catch {
      if error == .badFileDescriptor { return nil }
      throw error
    }
    var file = DumpedFile(
      pid: task.pid, number: number, procPath: "fd/\(number)", link: [], stat: try fstat(at: duplicate.rawValue))
    file.info.flags = UInt32(truncatingIfNeeded: try syscall(__NR_fcntl, Int(duplicate.rawValue), Int(F_GETFL)))
    let isPath = file.info.flags & UInt32(O_PATH) != 0
    if !isPath { file.fown = try FownEntry(of: duplicate.rawValue) }
    if file.format == S_IFIFO, !isPath, UInt64(file.stat.st_dev) == Pipe.device {
      // All that fdinfo would add is close-on-exec: an unnamed pipe has no position.
      file.link = Array("pipe:[\(file.stat.st_ino)]".utf8)
      file.isEmptyPipe = try Pipe.isEmpty(duplicate.rawValue)
      return (number, file, nil)
    }
    file.link = try readlink(at: names.rawValue, String(duplicate.rawValue))
    // It alone tells of locks: /proc/locks has the whole machine wait for it (fs/locks.c: locks_start).
    let info = try Descriptor.open(at: infos.rawValue, String(number))
    file.info = FdInfo(try buffer.readAll(info.rawValue, longestRecord: 512))
    file.duplicated = KeptDuplicate.of(duplicate)
    return (number, file, file.info.flags & UInt32(O_CLOEXEC) != 0)
  }
}

/// Which descriptors close on exec, as far as that is not known from outside (man 2 fcntl, F_GETFD).
struct CloseOnExecFlags: TaskState {
  private var asked: [(index: Int, call: SyscallProgram.Call)] = []

  init(asking program: inout SyscallProgram, in thread: DumpedThread) {
    guard let task = thread.task else { return }
    for (index, descriptor) in task.descriptors.enumerated() where descriptor.closesOnExec == nil {
      let call = program.call(
        __NR_fcntl, Argument(descriptor.number), Argument(F_GETFD), for: "reading the flag of descriptor",
        UInt64(descriptor.number))
      asked.append((index, call))
    }
  }

  func record(from slot: Slot, of thread: DumpedThread, into core: inout CoreEntry) {
    guard let task = thread.task else { return }
    for (index, call) in asked { task.descriptorEntries[index].flags = slot.result(call) & 1 != 0 ? 1 : 0 }
  }

  /// They are set with the descriptors.
  static func restore(_ thread: RestoredThread, _ program: inout SyscallProgram) {}
}
