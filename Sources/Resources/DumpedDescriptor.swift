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
  /// Close-on-exec, if that was seen from outside; it is the descriptor's own.
  var closesOnExec: Bool?
}

/// A file description of the tree under dump, which many descriptors may name.
final class DumpedDescription {
  var file: DumpedFile
  let kind: any FileKind.Type
  /// Once it has been compared with others.
  var member: FileTable.Member?

  init(_ file: DumpedFile, _ kind: any FileKind.Type) {
    self.file = file
    self.kind = kind
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

/// Finds out what descriptions are. A duplicate tells it at a tenth of the price of the same from the task's `/proc`.
public final class DescriptorExaminer {
  private let companion: Companion
  private let buffer = ReadBuffer()
  private var ownWindow: OwnDescriptor?

  public init(_ companion: Companion) { self.companion = companion }

  /// What is there, and what of it cannot be dumped, in words.
  typealias Found = (descriptors: [DumpedDescriptor], objections: [String])

  private static let numbersAtOnce = 64

  /// Examines the `count` descriptors of a task but those that are `known`; many by turns with the companion.
  func examine(_ task: DumpedTask, count: Int, known: Set<Int32>, _ options: DumpOptions) throws(Failure) -> Found {
    let pidfd = try about("\(task.description): pidfd_open") { () throws(Errno) in try pidfdOpen(task.pid) }
    let examination = Examination(task: task, pidfd: pidfd.rawValue, options: options)
    let window = try window()
    if count - known.count >= OpenFiles.many, let files = OpenFiles(of: task.pid, count: count) {
      return try examination.examine(files, but: known, window, buffer)
    }
    let numbers = try candidates(task, count).filter { !known.contains($0) }
    if numbers.count < 2 * Self.numbersAtOnce { return try examination.examine(numbers[...], window, buffer) }
    companion.hire()
    let parts = stride(from: 0, to: numbers.count, by: Self.numbersAtOnce).map {
      numbers[$0..<min($0 + Self.numbersAtOnce, numbers.count)]
    }
    let turns = Turns(parts.count)
    typealias Part = (turn: Int, found: Found)
    func takeParts(_ window: OwnDescriptor, _ buffer: ReadBuffer) throws(Failure) -> [Part] {
      var taken: [Part] = []
      while let turn = turns.next() { taken.append((turn, try examination.examine(parts[turn], window, buffer))) }
      return taken
    }
    var (mine, theirs): ([Part], [Part]) = ([], [])
    try companion.share(
      { () throws(Failure) in mine = try takeParts(window, buffer) },
      { () throws(Failure) in theirs = try takeParts(OwnDescriptor.window(), ReadBuffer()) })
    let all = (mine + theirs).sorted { $0.turn < $1.turn }
    return (all.flatMap(\.found.descriptors), all.flatMap(\.found.objections))
  }

  private func window() throws(Failure) -> OwnDescriptor {
    if let ownWindow { return ownWindow }
    let window = try OwnDescriptor.window()
    ownWindow = window
    return window
  }

  /// Numbers among which all descriptors are, in ascending order; `count` of them are in use.
  private func candidates(_ task: DumpedTask, _ count: Int) throws(Failure) -> [Int32] {
    // To ask for a number that is not used takes a tenth of the time in which a listing shows one that is.
    if count > 0, task.status.tableSize / 8 <= count { return Array(0..<task.status.tableSize) }
    return try about("\(task.description): reading its descriptors") { () throws(Errno) in
      try task.directory.numbers(in: "fd", buffer).sorted()
    }
  }
}

/// The examination of one task's descriptors, which two threads may make.
private struct Examination {
  let task: DumpedTask
  let pidfd: Int32
  let options: DumpOptions

  func examine(_ numbers: ArraySlice<Int32>, _ window: OwnDescriptor, _ buffer: ReadBuffer) throws(Failure) -> DescriptorExaminer.Found {
    var found: DescriptorExaminer.Found = ([], [])
    found.descriptors.reserveCapacity(numbers.count)
    defer { window.clear() }
    for number in numbers {
      if let description = try describe(number, window, buffer, &found.objections) {
        found.descriptors.append(DumpedDescriptor(number: number, file: description))
      }
    }
    return found
  }

  /// `nil`: there is no such descriptor, or none that can be dumped, which is then among the objections.
  private func describe(
    _ number: Int32, _ window: OwnDescriptor, _ buffer: ReadBuffer, _ objections: inout [String]
  ) throws(Failure) -> DumpedDescription? {
    let file = try about("\(task.description): descriptor \(number)") { () throws(Errno) in try examine(number, window, buffer) }
    guard let file else { return nil }
    guard let kind = fileKinds.first(where: { $0.matches(file) }) else {
      objections.append("\(file.description): \(UnsupportedFile.feature(file))")
      return nil
    }
    if let objection = kind.objection(file, options) { objections.append("\(file.description): \(objection)") }
    return DumpedDescription(file, kind)
  }

  /// `nil`: there is no such descriptor.
  private func examine(_ number: Int32, _ window: OwnDescriptor, _ buffer: ReadBuffer) throws(Errno) -> DumpedFile? {
    let duplicate: Descriptor
    do throws(Errno) {
      duplicate = try pidfdGetfd(pidfd, number)
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
      // fdinfo would add nothing: an unnamed pipe has no position.
      file.link = Pipe.link(UInt64(file.stat.st_ino))
      file.isEmptyPipe = try Pipe.isEmpty(duplicate.rawValue)
      return file
    }
    try window.show(duplicate)
    file.link = try window.link()
    file.info = try window.info(buffer)
    // The locks of a process are shown with its own descriptors only (fs/locks.c: __show_fd_locks).
    if !isPath { file.mayBeLocked = window.mayBeLocked(duplicate, file.stat) }
    if file.mayBeLocked {
      let info = try task.directory.open("fdinfo/\(number)")
      file.info.locks = FdInfo(try buffer.readAll(info.rawValue, longestRecord: 512)).locks
    }
    file.duplicated = KeptDuplicate.of(duplicate)
    return file
  }
}

// MARK: Very many

extension Examination {
  /// What descriptions have in common that differ in nothing but their positions.
  private struct Likeness: Hashable {
    var mount: UInt64
    var name: UInt64
    var inode: UInt64
    var flags: UInt32
    var mode: UInt32

    init(_ open: OpenFile) {
      (mount, name, inode, flags, mode) = (open.mount, open.name, open.inode, open.flags, open.mode)
    }
  }

  /// Examines all that an iterator has seen but those that are `known`. One file of many that are open alike is looked at, and of a
  /// pipe with nothing in it none.
  func examine(
    _ files: OpenFiles, but known: Set<Int32>, _ window: OwnDescriptor, _ buffer: ReadBuffer
  ) throws(Failure) -> DescriptorExaminer.Found {
    var found: DescriptorExaminer.Found = ([], [])
    var descriptions: [UInt64: DumpedDescription] = [:]
    var examples: [Likeness: DumpedDescription] = [:]
    defer { window.clear() }
    for open in files where !known.contains(open.number) {
      var description = descriptions[open.address]
      if description == nil { description = Pipe.empty(open, of: task) ?? copy(of: examples[Likeness(open)], open) }
      if description == nil {
        let objections = found.objections.count
        description = try describe(open.number, window, buffer, &found.objections)
        description?.file.address = open.address
        if let description, description.kind == RegularFile.self, found.objections.count == objections, !description.file.mayBeLocked {
          examples[Likeness(open)] = description
        }
      }
      guard let description else { continue }
      descriptions[open.address] = description
      found.descriptors.append(DumpedDescriptor(number: open.number, file: description, closesOnExec: open.closesOnExec))
    }
    return found
  }

  /// The same as a file that has been looked at, but at its own number and position.
  private func copy(of example: DumpedDescription?, _ open: OpenFile) -> DumpedDescription? {
    guard let example, !open.hasOwner, !open.hasLocks else { return nil }
    var file = example.file
    file.number = open.number
    file.procPath = "fd/\(open.number)"
    file.info.position = open.position
    file.fown = FownEntry()
    file.duplicated = nil
    file.address = open.address
    return DumpedDescription(file, example.kind)
  }
}

/// Which descriptors close on exec (man 2 fcntl, F_GETFD): the one thing that a duplicate does not tell. An iterator does.
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
