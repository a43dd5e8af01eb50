import CLinux
import Glibc
import Linux
import SystemPackage

/// The tracer in another namespace, for as long as some work takes. It has one thread only, as entering a mount namespace demands
/// (man 2 setns).
enum Visit {
  /// Runs `body` in the namespace that a descriptor names; `flag` is its CLONE_NEW flag.
  static func run<T: ~Copyable>(_ namespace: Int32, _ flag: Int32, _ body: () throws(Failure) -> T) throws(Failure) -> T {
    try run(flag, { () throws(Errno) in try syscall(__NR_setns, Int(namespace), Int(flag)) }, body)
  }

  /// Runs `body` in a new namespace, and returns a descriptor that keeps it.
  static func makeNew(_ kind: any NamespaceKind.Type, _ body: () throws(Failure) -> Void) throws(Failure) -> Descriptor {
    try run(kind.flag, { () throws(Errno) in try syscall(__NR_unshare, Int(kind.flag)) }) { () throws(Failure) in
      let descriptor = try about("opening it") { () throws(Errno) in
        try Descriptor.open("/proc/thread-self/ns/\(kind.name)")
      }
      try body()
      return descriptor
    }
  }

  private static func run<T: ~Copyable>(
    _ flag: Int32, _ enter: () throws(Errno) -> Void, _ body: () throws(Failure) -> T
  ) throws(Failure) -> T {
    let home = try about("preparing to enter a namespace") { () throws(Errno) in try Home.find(flag) }
    try about("entering the namespace", advice: "This needs CAP_SYS_ADMIN.") { () throws(Errno) in try enter() }
    let result: T
    do throws(Failure) {
      result = try body()
    } catch {
      try home.comeBack()
      throw error
    }
    try home.comeBack()
    return result
  }
}

/// The way back from a visit.
private struct Home: ~Copyable {
  let flag: Int32
  let namespace: Descriptor
  /// Entering a mount namespace changes both.
  let root: Descriptor
  let directory: Descriptor

  static func find(_ flag: Int32) throws(Errno) -> Home {
    let name =
      switch flag {
      case CLONE_NEWUTS: "uts"
      case CLONE_NEWIPC: "ipc"
      default: "mnt"
      }
    let namespace = try Descriptor.open("/proc/thread-self/ns/" + name)
    let root = try Descriptor.open("/", O_PATH | O_DIRECTORY)
    let directory = try Descriptor.open(".", O_PATH | O_DIRECTORY)
    return Home(flag: flag, namespace: namespace, root: root, directory: directory)
  }

  borrowing func comeBack() throws(Failure) {
    do throws(Errno) {
      try syscall(__NR_setns, Int(namespace.rawValue), Int(flag))
      guard flag == CLONE_NEWNS else { return }
      try syscall(__NR_fchdir, Int(root.rawValue))
      try syscall(__NR_chroot, path: ".")
      try syscall(__NR_fchdir, Int(directory.rawValue))
    } catch {
      throw Failure("coming back from a namespace", error)
    }
  }
}
