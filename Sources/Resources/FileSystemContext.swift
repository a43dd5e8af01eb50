import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// A process's root and working directory and its umask (man 2 chroot, chdir, umask).
public enum FileSystemContext {
  public static func record(_ task: DumpedTask, _ dump: DumpContext) throws(Failure) {
    task.fs.cwdId = try AddressSpace.named(task, "cwd", flags: O_RDONLY, dump).id
    let root = try AddressSpace.named(task, "root", flags: O_RDONLY, dump)
    task.fs.rootId = root.id
    task.fs.umask = task.status.umask
    task.seesTracer =
      task.namespace(MountNamespace.self) == nil && task.pidNamespace == PIDNamespaces.ownID
      && root.stat.st_dev == dump.root.st_dev && root.stat.st_ino == dump.root.st_ino
  }

  public static func check(_ task: RestoredTask, _ restore: RestoreContext) throws(Failure) {
    guard let fs = task.fs else { return }
    for id in [fs.cwdId, fs.rootId] { try restore.check(id, for: "fs-\(task.pid).img") }
  }

  static func concede(_ task: RestoredTask, _ restore: RestoreContext) throws(Failure) -> [String] {
    guard let fs = task.fs, !restore.privileges.capabilities.contains(.sysChroot) else { return [] }
    let root = try RegularFile.part(of: restore.entry(fs.rootId, for: task.description))
    if root.name == [UInt8(ascii: "/")] { return [] }
    task.keepsRoot = true
    return ["the root directory \(root.name.text): needs CAP_SYS_CHROOT"]
  }

  public static func restore(
    _ task: RestoredTask, _ restore: RestoreContext, _ sequence: inout ProgramSequence
  )
    throws(Failure)
  {
    guard let fs = task.fs else { return }
    let place = "task \(task.pid)"
    let root = try RegularFile.part(of: restore.entry(fs.rootId, for: place))
    sequence.makeRoom(calls: 8)
    let kind = namespaceKinds.firstIndex { $0 == MountNamespace.self } ?? 0
    // Who entered a mount namespace has its root directory.
    if !task.keepsRoot,
      root.name != [UInt8(ascii: "/")]
        || restore.mounts.namespace(of: root.mount) ?? 0 != restore.namespaces.id(kind, of: task)
    {
      let fd = sequence.fetch(try restore.descriptor(fs.rootId, for: place), restore)
      sequence.current.call(__NR_fchdir, fd, for: "going to its root directory")
      sequence.current.call(
        __NR_chroot, Argument(sequence.current.place(path: [UInt8(ascii: ".")])),
        for: "changing its root directory")
    }
    let fd = sequence.fetch(try restore.descriptor(fs.cwdId, for: place), restore)
    sequence.current.call(__NR_fchdir, fd, for: "going to its working directory")
    if let umask = fs.umask { sequence.current.call(__NR_umask, Argument(umask), for: "setting its umask") }
  }
}

extension RestoreContext {
  /// Whether paths lead a task where they lead this process, with the same rights, when its descriptors are made.
  func seesTheSame(_ task: RestoredTask) -> Bool {
    guard namespaces.areNone, !privileges.areLimited, let fs = task.fs else { return false }
    return files[fs.rootId]?.reg?.name == [UInt8(ascii: "/")]
  }
}
