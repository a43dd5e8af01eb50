import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// Where a recorded file is for this process: below a directory that it holds, or at a path of its own.
///
/// The kernel's paths have no symbolic links in them (fs/d_path.c), so whatever part of one is a link now has been put there since, and
/// could lead anywhere. None is followed.
struct RecordedPath: Hashable {
  /// A descriptor, or `AT_FDCWD`.
  var directory = AT_FDCWD
  /// Empty for what the descriptor itself is of.
  var path: [UInt8]

  /// Opens it as it was opened before.
  func open(_ flags: Int32) throws(Failure) -> Descriptor {
    do throws(Errno) {
      // The only link that is followed: it is this process's own.
      if path.isEmpty { return try Descriptor.open("/proc/self/fd/\(directory)", flags) }
      return try Descriptor.open(at: directory, path, flags, resolving: directory == AT_FDCWD ? .noLinks : [.noLinks, .beneath])
    } catch {
      throw Self.failure(error)
    }
  }

  /// The directory that it is in, as a mere place (O_PATH): names in it are looked up there, whatever becomes of the path.
  func openParent() throws(Failure) -> Descriptor {
    let above = path.dropLast(name.count)
    if directory != AT_FDCWD, above.isEmpty { return try RecordedPath(directory: directory, path: []).open(O_PATH | O_DIRECTORY) }
    return try RecordedPath(directory: directory, path: above.count > 1 ? above.dropLast() : Array(above)).open(O_PATH | O_DIRECTORY)
  }

  /// The same for a file without a name: what is gone of the directories above it is made again, for as long as `body` runs.
  func withParent<Result: ~Copyable>(_ body: (Int32) throws(Failure) -> Result) throws(Failure) -> Result {
    var folders = TemporaryFolders()
    defer { folders.remove() }
    let parent = try openParent(making: &folders)
    return try body(parent.rawValue)
  }

  private func openParent(making folders: inout TemporaryFolders) throws(Failure) -> Descriptor {
    do throws(Failure) {
      return try openParent()
    } catch {
      let above = RecordedPath(directory: directory, path: Array(path.dropLast(name.count + 1)))
      guard error.errno == .noSuchFileOrDirectory, !above.name.isEmpty else { throw error }
      let next = try above.openParent(making: &folders)
      return try folders.make(above.name, in: next)
    }
  }

  /// The last part.
  var name: [UInt8] { path[(path.lastIndex(of: UInt8(ascii: "/")) ?? -1).advanced(by: 1)...].map { $0 } }

  private static func failure(_ error: Errno) -> Failure {
    switch error {
    case .tooManySymbolicLinkLevels:
      Failure(
        "openat2: \(error.nameAndText): a part of the path is a symbolic link, which it was not at the dump",
        advice: "Somebody has put it there since; put back what was there, or mount it there (mount --bind).", errno: error)
    case .noFunction, .notPermitted:
      Failure(
        "openat2: \(error.nameAndText)", advice: "It needs Linux 5.6, and a sandbox that allows it; see swift-restore check.", errno: error)
    default: Failure("openat2", error)
    }
  }
}

/// Names that a dump has given to files that had lost theirs, so that they can be opened again.
public final class TemporaryLinks {
  private var links: [(directory: Int32, name: [UInt8])] = []

  func add(_ name: [UInt8], in directory: consuming Descriptor) { links.append((directory.release(), name)) }

  /// Takes them away: the tree is complete, or the dump has failed.
  public func remove() {
    for (directory, name) in links { FileName.unlink(at: directory, name) }
  }

  deinit {
    for (directory, _) in links { _ = cl_syscall(Int(__NR_close), Int(directory), 0, 0, 0, 0, 0) }
  }
}

/// Directories that are there only while a file without a name is made in them, which was in them when they were removed.
private struct TemporaryFolders {
  private var folders: [(directory: Int32, name: [UInt8], isNew: Bool)] = []

  mutating func make(_ name: [UInt8], in directory: consuming Descriptor) throws(Failure) -> Descriptor {
    let fd = directory.release()
    let isNew = FileName.with(name) { mkdirat(fd, $0, 0o700) } == 0
    let error = Errno(rawValue: errno)
    folders.append((fd, name, isNew))
    return try about("making its directory again for a moment") { () throws(Errno) in
      if !isNew, error != .fileExists { throw error }
      return try Descriptor.open(at: fd, name, O_PATH | O_DIRECTORY, resolving: [.noLinks, .beneath])
    }
  }

  mutating func remove() {
    for (directory, name, isNew) in folders.reversed() {
      if isNew { FileName.unlink(at: directory, name, AT_REMOVEDIR) }
      close(directory)
    }
    folders = []
  }
}

/// Names as the kernel has them, which need not be UTF-8.
enum FileName {
  static func with(_ name: [UInt8], _ body: (UnsafePointer<CChar>) -> Int32) -> Int32 {
    (name.map { CChar(bitPattern: $0) } + [0]).withUnsafeBufferPointer { $0.baseAddress.map(body) ?? -1 }
  }

  static func unlink(at directory: Int32, _ name: [UInt8], _ flags: Int32 = 0) {
    _ = with(name) { unlinkat(directory, $0, flags) }
  }
}

extension RestoreContext {
  /// Where a file is now, or was.
  func path(of reg: RegFileEntry) throws(Failure) -> RecordedPath {
    if let path = try mounts.path(reg.name, through: reg.mount) { return path }
    return RecordedPath(path: try about("its process") { () throws(Errno) in try ProcessFile.path(reg.name, self) })
  }
}
