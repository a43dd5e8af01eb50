import CLinux
import Checkpoint
import Glibc
import Linux
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

/// Finds out what a description is. A duplicate tells most of it at a tenth of the price of the same from /proc; names, and what
/// only some kinds have, are read there.
final class DescriptorExaminer {
  private let task: DumpedTask
  /// `/proc/PID/fd` and `/proc/PID/fdinfo`
  let links: Descriptor
  private let infos: Descriptor
  private let pidfd: Descriptor

  init(_ task: DumpedTask) throws(Failure) {
    self.task = task
    links = try about("\(task.description): fd") { () throws(Errno) in
      try task.directory.open("fd", O_RDONLY | O_DIRECTORY)
    }
    infos = try about("\(task.description): fdinfo") { () throws(Errno) in
      try task.directory.open("fdinfo", O_RDONLY | O_DIRECTORY)
    }
    pidfd = try about("\(task.description): pidfd_open") { () throws(Errno) in try pidfdOpen(task.pid) }
  }

  /// The file, and whether the descriptor closes on exec; `nil`: the task must be asked.
  typealias Examined = (file: DumpedFile, closesOnExec: Bool?)

  /// Examines descriptors; many in two halves, one of them by the companion.
  func examine(_ numbers: [Int32], _ buffer: ReadBuffer, _ companion: Companion) throws(Failure) -> [Examined] {
    if numbers.count < 128 { return try examine(numbers[...], buffer) }
    companion.hire()
    let half = numbers.count / 2
    var (mine, theirs): ([Examined], [Examined]) = ([], [])
    try companion.share(
      { () throws(Failure) in mine = try examine(numbers[..<half], buffer) },
      { () throws(Failure) in theirs = try self.examine(numbers[half...], ReadBuffer()) })
    return mine + theirs
  }

  private func examine(_ numbers: ArraySlice<Int32>, _ buffer: ReadBuffer) throws(Failure) -> [Examined] {
    var list: [Examined] = []
    list.reserveCapacity(numbers.count)
    for number in numbers {
      list.append(
        try about("\(task.description): descriptor \(number)") { () throws(Errno) in try examine(number, buffer) })
    }
    return list
  }

  private func examine(_ number: Int32, _ buffer: ReadBuffer) throws(Errno) -> Examined {
    let name = String(number)
    let duplicate = try pidfdGetfd(pidfd.rawValue, number)
    var file = DumpedFile(
      pid: task.pid, number: number, procPath: "fd/\(name)", link: [], stat: try fstat(at: duplicate.rawValue))
    file.info.flags = UInt32(truncatingIfNeeded: try syscall(__NR_fcntl, Int(duplicate.rawValue), Int(F_GETFL)))
    let isPath = file.info.flags & UInt32(O_PATH) != 0
    if !isPath { file.fown = try FownEntry(of: duplicate.rawValue) }
    if file.format == S_IFIFO, !isPath, UInt64(file.stat.st_dev) == Pipe.device {
      // All that fdinfo would add is close-on-exec: an unnamed pipe has no position.
      file.link = Array("pipe:[\(file.stat.st_ino)]".utf8)
      file.isEmptyPipe = try Pipe.isEmpty(duplicate.rawValue)
      return (file, nil)
    }
    file.link = try readlink(at: links.rawValue, name)
    let info = try Descriptor.open(at: infos.rawValue, name)
    file.info = FdInfo(try buffer.readAll(info.rawValue, longestRecord: 512))
    return (file, file.info.flags & UInt32(O_CLOEXEC) != 0)
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
