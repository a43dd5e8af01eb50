import Checkpoint
import Glibc
import Linux
import Resources
import SystemPackage

/// A checkpoint as it is read: every image that a restore needs, checked for what can be checked without the system.
struct LoadedCheckpoint {
  let restore: RestoreContext
  private(set) var tree: [PstreeEntry]
  /// The number of the PID namespace that the tree was dumped from.
  let dumpersPIDNamespace: UInt32
  let reading: TaskReading

  /// - Parameter isExamined: It is to be restored, and not only its tree that is wanted.
  init(_ options: RestoreOptions, images: String, isExamined: Bool = true) throws(Failure) {
    let directory = try Self.open(images)
    let inventory = try asFailure { () throws(ImageError) in try directory.readInventory(expecting: options.verify) }
    if options.verify, options.verifyMemory { try Self.refuseDamage(directory) }
    guard inventory.imgVersion == 1 || inventory.imgVersion == 2 else {
      throw Failure("inventory.img: img_version \(inventory.imgVersion) is not known, only 1 and 2 are")
    }
    let files = try asFailure { () throws(ImageError) in try directory.readAll(FileEntry.self, from: .files) }
    let restore = try RestoreContext(options: options, directory: directory, files: files)
    restore.namespaces.own = inventory.rootIds ?? TaskKobjIdsEntry()
    tree = try restore.all(PstreeEntry.self, .pstree)
    dumpersPIDNamespace = inventory.rootIds?.pidNsId ?? PIDNamespaces.ownID
    guard !tree.isEmpty else { throw Failure("pstree.img has no task") }
    try Self.readShared(restore)
    for entry in tree { restore.pids.insert(entry.pid) }
    reading = TaskReading(tree, restore)
    try reading.run(tree, isExamined: isExamined)
    restore.directory.forgetCompared()
    self.restore = restore
  }

  /// What pstree.img says is known as a ``RecordedTree``: it need not be held twice.
  mutating func forgetTree() { tree = [] }

  /// Compares every image with its checksum, whether a restore would read it or not.
  static func verify(images: String) throws(Failure) {
    let directory = try open(images)
    _ = try asFailure { () throws(ImageError) in try directory.readInventory(expecting: true) }
    try refuseDamage(directory)
  }

  private static func refuseDamage(_ directory: borrowing ImageDirectory) throws(Failure) {
    let damage = try asFailure { () throws(ImageError) in try directory.damage(memory: true) }
    if damage.isEmpty { return }
    let lines = damage.map(\.description)
    throw Failure(
      lines.count == 1 ? lines[0] : "\(lines.count) images are damaged:\n  " + lines.joined(separator: "\n  "),
      advice: "Restore from another copy of the checkpoint.")
  }

  private static func open(_ path: String) throws(Failure) -> ImageDirectory {
    guard access(path, F_OK) == 0 else {
      throw Failure(
        "the images folder \(path)", Errno(rawValue: errno),
        advice: "Give the folder of a checkpoint with --images.")
    }
    guard access(path + "/inventory.img", F_OK) == 0 else {
      throw Failure(
        "\(path) is not a checkpoint: it has no inventory.img",
        advice: "The dump did not finish, or this is another folder; give a complete one with --images.",
        errno: .noSuchFileOrDirectory)
    }
    return try asFailure { () throws(ImageError) in try ImageDirectory(opening: FilePath(path)) }
  }

  /// What several tasks refer to.
  private static func readShared(_ restore: RestoreContext) throws(Failure) {
    for remap in try restore.all(RemapFilePathEntry.self, .remapFilePath, optional: true) {
      restore.remaps[remap.origId] = remap
    }
    for inode in try restore.all(MemfdInodeEntry.self, .memfd, optional: true) {
      restore.memfdInodes[UInt32(truncatingIfNeeded: inode.inodeId)] = inode
    }
    for terminal in try restore.all(TtyInfoEntry.self, .ttyInfo, optional: true) {
      restore.terminals[terminal.id] = terminal
    }
    if let seccomp = try restore.all(SeccompEntry.self, .seccomp, optional: true, isOne: true).first {
      restore.seccomp = seccomp
    }
    // Nothing of it is needed here, but a damaged one says that the rest may be too.
    _ = try restore.all(TimensEntry.self, .timens(0), optional: true, isOne: true)
    restore.pipeData = try pipeData(.pipesData, restore)
    restore.fifoData = try pipeData(.fifoData, restore)
  }

  private static func pipeData(_ file: ImageFile, _ restore: RestoreContext) throws(Failure) -> [UInt32: (
    PipeDataEntry, [UInt8]
  )] {
    var data: [UInt32: (PipeDataEntry, [UInt8])] = [:]
    guard restore.directory.contains(file) || restore.directory.expects(file) else { return data }
    do {
      var image = try ImageReader(file, in: restore.directory)
      while let entry = try image.next(PipeDataEntry.self) {
        data[entry.pipeId] = (entry, try image.raw(Int(entry.bytes)))
      }
    } catch {
      throw Failure(error)
    }
    return data
  }
}

extension RestoreContext {
  /// The only entry of an image.
  func one<M: ImageMessage>(_ type: M.Type, _ file: ImageFile) throws(Failure) -> M {
    try asFailure { () throws(ImageError) in try directory.read(type, from: file) }
  }

  /// All entries of an image; none if it is optional and not there. `isOne`: where it is there, it has an entry.
  func all<M: ImageMessage>(_ type: M.Type, _ file: ImageFile, optional: Bool = false, isOne: Bool = false) throws(Failure) -> [M] {
    do throws(ImageError) {
      return isOne ? [try directory.read(type, from: file)] : try directory.readAll(type, from: file)
    } catch {
      if optional, case .system(call: "open", .noSuchFileOrDirectory) = error.problem, !directory.expects(file) { return [] }
      throw Failure(error)
    }
  }
}
