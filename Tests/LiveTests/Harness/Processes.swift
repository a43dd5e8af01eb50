import Glibc

/// What a live test throws: a sentence that says which claim does not hold, and what was seen.
struct LiveFailure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// Starting, watching and ending processes. Only processes that a test started are ever touched.
enum Processes {
  struct Ended {
    /// The exit code, or 128 plus the signal's number as a shell tells it.
    let code: Int32
    init(status: Int32) { code = status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + status & 0x7f }
  }

  /// Orphans of the trees that are dumped and restored come to this process, and not to a PID 1 that may be slow to reap.
  static let isSubreaper: Bool = {
    // `prctl` is variadic, which Swift cannot call; its address can be.
    typealias Call = @convention(c) (Int32, UInt, UInt, UInt, UInt) -> Int32
    guard let address = dlsym(nil, "prctl") else { return false }
    return unsafeBitCast(address, to: Call.self)(36 /* PR_SET_CHILD_SUBREAPER */, 1, 0, 0, 0) == 0
  }()

  /// Starts a program (found in PATH) with nothing of ours but the three standard descriptors, which are files.
  static func start(
    _ arguments: [String], in directory: String, environment: [String: String] = [:],
    input: String = "/dev/null",
    output: String, errors: String, newSession: Bool
  ) throws -> pid_t {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, input, O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, output, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
    if errors == output {
      posix_spawn_file_actions_adddup2(&actions, 1, 2)
    } else {
      posix_spawn_file_actions_addopen(&actions, 2, errors, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
    }
    for fd in Files.names("/proc/self/fd").compactMap({ Int32($0) }) where fd > 2 {
      _ = fcntl(fd, F_SETFD, FD_CLOEXEC)
    }

    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    var all = sigset_t()
    sigemptyset(&none)
    sigfillset(&all)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setsigdefault(&attributes, &all)
    let session: Int32 = newSession ? 0x80 /* POSIX_SPAWN_SETSID */ : 0
    posix_spawnattr_setflags(
      &attributes, Int16(session | Int32(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF)))

    var variables = ["PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"]
    variables.merge(environment) { $1 }
    let command = ["env", "-C", directory] + arguments
    var argv = command.map { strdup($0) } + [nil]
    var envp = variables.map { strdup("\($0)=\($1)") } + [nil]
    defer { (argv + envp).forEach { free($0) } }
    var pid: pid_t = 0
    let error = posix_spawnp(&pid, command[0], &actions, &attributes, &argv, &envp)
    guard error == 0 else {
      throw LiveFailure("cannot start \(arguments[0]): \(String(cString: strerror(error)))")
    }
    return pid
  }

  /// Waits for a child of this process; nil when it is still running after `seconds`.
  static func wait(for pid: pid_t, seconds: Double) -> Ended? {
    var status: Int32 = 0
    var ended: Ended?
    _ = poll(seconds) {
      let result = waitpid(pid, &status, WNOHANG)
      if result == pid { ended = Ended(status: status) }
      return result != 0
    }
    return ended
  }

  /// Asks every 5 ms until the answer is yes; false after `seconds`.
  static func poll(_ seconds: Double, _ isDone: () throws -> Bool) rethrows -> Bool {
    let end = now() + seconds
    while try !isDone() {
      if now() > end { return false }
      usleep(5000)
    }
    return true
  }

  /// Seconds of the monotonic clock.
  static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }

  /// The state letter of `/proc/PID/stat`, nil where there is no such process.
  static func state(of pid: pid_t) -> Character? {
    guard let stat = Files.text("/proc/\(pid)/stat"), let end = stat.lastIndex(of: ")") else { return nil }
    return stat[end...].dropFirst(2).first
  }

  /// A process and all its descendants, parents first.
  static func tree(of root: pid_t) -> [pid_t] {
    var all = [root]
    var next = 0
    while next < all.count {
      for task in Files.names("/proc/\(all[next])/task") {
        let children = Files.text("/proc/\(all[next])/task/\(task)/children") ?? ""
        all += children.split(separator: " ").compactMap { pid_t($0) }
      }
      next += 1
    }
    return all
  }

  /// Everything that runs in `folder`, runs from it, or writes into it.
  static func using(_ folder: String) -> [pid_t] {
    Files.names("/proc").compactMap { pid_t($0) }.filter { pid in
      guard pid != getpid() else { return false }
      let links = ["cwd", "exe", "fd/1"].compactMap { Files.link("/proc/\(pid)/\($0)") }
      return links.contains { $0.hasPrefix(folder + "/") || $0 == folder }
    }
  }

  /// Reaps dead children that are in one of the given sessions: a half-built tree need not have the recorded PIDs.
  static func reapOrphans(of sessions: Set<pid_t>) {
    for pid in Files.names("/proc").compactMap({ pid_t($0) }) {
      guard let stat = Files.text("/proc/\(pid)/stat"), let end = stat.lastIndex(of: ")") else { continue }
      let fields = stat[end...].split(separator: " ")
      guard fields.count > 4, fields[1] == "Z", pid_t(fields[2]) == getpid(), let session = pid_t(fields[4])
      else { continue }
      if sessions.contains(session) { waitpid(pid, nil, WNOHANG) }
    }
  }

  /// Kills everything that uses `folder`; reaps it and the given processes.
  static func end(allOf folder: String, and known: Set<pid_t>) {
    var ours = known
    _ = poll(1) {
      let living = using(folder)
      for pid in living { kill(pid, SIGKILL) }
      ours.formUnion(living)
      for pid in ours { waitpid(pid, nil, WNOHANG) }
      return living.isEmpty
    }
    _ = poll(2) {
      ours = ours.filter { waitpid($0, nil, WNOHANG) == 0 }
      return ours.isEmpty
    }
    reapOrphans(of: known)
  }
}
