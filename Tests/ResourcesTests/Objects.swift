import CLinux
import Checkpoint
import Foundation
import Glibc
import Linux
import SystemPackage
import Testing
import Tracee

@testable import Resources

/// The kinds are tested on real objects of this process. Descriptor numbers and the ptrace thread are shared by a
/// process, so tests run one after the other.
@Suite(.serialized) final class Kinds {
  deinit { RoundTrip.latest = nil }
}

/// A folder that goes away with this value.
final class TemporaryDirectory {
  let path = NSTemporaryDirectory() + "resources-tests-\(UUID().uuidString)"

  init() throws {
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
  }
  deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// A descriptor of this process as a dump sees it.
func dumped(_ fd: Int32) throws -> DumpedFile {
  let path = "fd/\(fd)"
  let directory = try ProcDirectory(pid: getpid())
  return DumpedFile(
    pid: getpid(), number: fd, procPath: path, link: try directory.link(path),
    stat: try directory.folder.status(path), info: try FdInfo(ofOwn: fd))
}

func kind(of file: DumpedFile) throws -> any FileKind.Type {
  try #require(fileKinds.first { $0.matches(file) }, "\(file.description)")
}

/// A dump of descriptors of this process, and the restore of what it wrote.
final class RoundTrip {
  let folder: TemporaryDirectory
  let dump: DumpContext
  let restore: RestoreContext
  /// What was made again lives as long as its context, which is until the test ends.
  nonisolated(unsafe) fileprivate static var latest: RoundTrip?

  /// IDs, in the order of the descriptors that were dumped.
  let ids: [UInt32]

  init(
    _ descriptors: [Int32], shellJob: Bool = false, processes: [pid_t] = [getpid()],
    recorded: (Int32) -> Void = { _ in }
  ) throws {
    folder = try TemporaryDirectory()
    var options = DumpOptions()
    options.shellJob = shellJob
    let dump = try DumpContext(options: options, directory: try ImageDirectory(creating: FilePath(folder.path)))
    dump.processes = processes
    ids = try descriptors.map {
      let file = try dumped($0)
      let id = try dump.files.id(of: DumpedDescription(file, kind(of: file)), dump)
      recorded($0)
      return id
    }
    var wanted = RestoreOptions()
    wanted.shellJob = shellJob
    restore = try RestoreContext(
      options: wanted, directory: try ImageDirectory(opening: FilePath(folder.path)),
      files: dump.files.entries)
    for inode in dump.memfds { restore.memfdInodes[UInt32(inode.inodeId)] = inode }
    for (data, bytes) in dump.pipeData { restore.pipeData[data.pipeId] = (data, bytes) }
    for (data, bytes) in dump.fifoData { restore.fifoData[data.pipeId] = (data, bytes) }
    for terminal in dump.terminals { restore.terminals[terminal.id] = terminal }
    self.dump = dump
    Self.latest = self
    for entry in restore.files.values { try restore.kind(of: entry).check(entry, restore) }
  }

  /// Descriptors of the descriptions that were made again. They are the context's.
  func descriptors() throws -> [Int32] { try ids.map { try restore.descriptor($0, for: "the test") } }

  func entry(_ index: Int) throws -> FileEntry { try #require(restore.files[ids[index]]) }
}

/// What fdinfo says of a description, without what belongs to this very inode or descriptor.
func state(_ fd: Int32) throws -> [String] {
  let info = try FdInfo(ofOwn: fd)
  let lines = info.lines.map(\.text).filter { !$0.hasPrefix("eventfd-id") }
  return ["pos \(info.position)", "flags \(String(info.flags & descriptionFlags, radix: 8))"] + lines
}

/// Expects that each description was made again as it was.
@discardableResult
func expectSame(_ descriptors: [Int32], shellJob: Bool = false) throws -> RoundTrip {
  let trip = try RoundTrip(descriptors, shellJob: shellJob)
  for file in try descriptors.map(dumped) {
    #expect(try kind(of: file).objection(file, trip.dump.options) == nil)
  }
  for (old, new) in zip(descriptors, try trip.descriptors()) { #expect(try state(new) == state(old)) }
  return trip
}

func contents(_ fd: Int32, _ count: Int = 65536) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: count)
  let n = read(fd, &bytes, count)
  return n < 0 ? [] : Array(bytes[..<n])
}

func descriptor(_ fd: Int) throws -> Int32 {
  try #require(fd >= 0, "\(String(cString: strerror(errno)))")
  return Int32(fd)
}
