import CLinux
import Glibc
import Linux
import SystemPackage

/// The content of a file system as a compressed archive, which the system's tar reads and writes.
enum Archive {
  private static let arguments = [
    "tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--sparse", "--no-unquote", "--no-wildcards",
    "--warning=no-timestamp",
  ]

  /// Archives all below a directory, on its file system, into a file.
  static func create(of directory: Int32, to file: Int32) throws(Failure) {
    try run(
      arguments + [
        "--create", "--use-compress-program=gzip -1", "--format=posix", "--one-file-system", "--warning=no-file-ignored",
        "--directory=/proc/self/fd/3", ".",
      ], directory, output: file)
  }

  static func extract(_ file: Int32, into directory: Int32) throws(Failure) {
    try run(
      arguments + ["--extract", "--gzip", "--preserve-permissions", "--same-owner", "--directory=/proc/self/fd/3"],
      directory, input: file)
  }

  /// Runs a program with `directory` as descriptor 3.
  private static func run(_ arguments: [String], _ directory: Int32, input: Int32? = nil, output: Int32? = nil) throws(Failure) {
    let status = try about("starting tar", advice: "Files of a tmpfs are kept by tar and gzip; install them.") {
      () throws(Errno) in try spawn(arguments, directory, input, output)
    }
    guard status == 0 else {
      throw Failure("tar ended with \(status & 0x7f == 0 ? "exit code \(status >> 8 & 0xff)" : "signal \(status & 0x7f)")")
    }
  }

  private static func spawn(_ arguments: [String], _ directory: Int32, _ input: Int32?, _ output: Int32?) throws(Errno) -> Int32 {
    // At the places that the program wants, none of them close-on-exec, whichever numbers they have now.
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, directory, 3)
    if let input { posix_spawn_file_actions_adddup2(&actions, input, 0) }
    if let output { posix_spawn_file_actions_adddup2(&actions, output, 1) }
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    var argv = arguments.map { strdup($0) } + [nil]
    let environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"]
    var envp = environment.map { strdup($0) } + [nil]
    defer { for text in argv + envp { free(text) } }
    var pid: pid_t = 0
    let error = posix_spawnp(&pid, "tar", &actions, &attributes, &argv, &envp)
    if error != 0 { throw Errno(rawValue: error) }
    var status: Int32 = 0
    while waitpid(pid, &status, 0) < 0 {
      if errno != EINTR { throw Errno(rawValue: errno) }
    }
    return status
  }
}
