import Foundation
import Glibc
import Testing

/// A tree that this test starts and dumps, and ends afterwards.
@Suite(.enabled(if: geteuid() == 0, "a dump needs root"))
struct LiveShowTests {
  /// A zombie, a stopped child, an open file of which the name is gone, an offset, a fifo. It says when all of it is
  /// there. What it inherits besides its three descriptors is no part of the test.
  static let program = """
    import os, signal, sys, time
    os.closerange(3, 4096)
    folder = sys.argv[1]
    if os.fork() == 0: os._exit(3)
    child = os.fork()
    if child == 0:
        while True: time.sleep(100)
    os.kill(child, signal.SIGSTOP)
    os.waitpid(child, os.WUNTRACED)
    gone = os.open(folder + "/gone", os.O_RDWR | os.O_CREAT)
    os.write(gone, b"12345")
    os.unlink(folder + "/gone")
    os.mkfifo(folder + "/fifo")
    os.open(folder + "/fifo", os.O_RDWR)
    time.sleep(0.2)
    open(folder + "/children", "w").write(str(child))
    os.rename(folder + "/children", folder + "/ready")
    time.sleep(100)
    """

  @Test("A dump of a live tree shows what the tree has, and the dumped tree can be checked")
  func live() throws {
    try withFolder { folder in
      let pid = try start(["python3", "-c", Self.program, folder])
      var stopped: pid_t?
      defer {
        if let stopped { kill(stopped, SIGKILL) }
        kill(pid, SIGKILL)
        waitpid(pid, nil, 0)
      }
      for _ in 0..<500 where stopped == nil {
        usleep(20_000)
        stopped = (try? String(contentsOfFile: folder + "/ready", encoding: .utf8)).flatMap { pid_t($0) }
      }
      let child = try #require(stopped, "the program did not start")

      let dumped = try swiftRestore("dump", "-t", "\(pid)", "-D", folder + "/images", "--leave-running")
      try #require(dumped.status == 0, "\(dumped.errors)")
      let shown = try swiftRestore("show", "--json", folder + "/images").json()
      let version = try swiftRestore("--version").output.split(separator: "\n")[0]
      #expect(shown["tool"] as? String == "swift-restore \(version)")
      let tasks = try #require(
        shown["tasks"] as? [[String: Any]])
      #expect(
        tasks.map { $0["state"] as? String }.sorted { $0 ?? "" < $1 ?? "" } == ["alive", "stopped", "zombie"])
      #expect(tasks.first?["pid"] as? Int == Int(pid))
      #expect(tasks.first { $0["state"] as? String == "stopped" }?["pid"] as? Int == Int(child))
      let zombie = try #require(tasks.first { $0["state"] as? String == "zombie" })
      #expect(zombie["wait_status"] as? Int == 3 << 8)
      #expect(zombie["memory"] is NSNull)

      let files = try #require(tasks.first?["files"] as? [[String: Any]])
      let gone = try #require(files.first { $0["deleted"] as? Bool == true })
      #expect(gone["position"] as? Int == 5)
      #expect(gone["access"] as? String == "rw")
      #expect(gone["close_on_exec"] as? Bool == true)
      #expect(
        (files.first { $0["kind"] as? String == "fifo" }?["target"] as? String)?.hasPrefix("\(folder)/fifo")
          == true)

      let text = try swiftRestore("show", folder + "/images").output
      #expect(text.contains("zombie, exited with 3, parent \(pid)"))
      #expect(text.contains("stopped by signal 19"))
      let checked = try swiftRestore("check", "-D", folder + "/images")
      #expect(checked.status == 0, "\(checked.errors)")
    }
  }

  /// Starts a program in a session of its own, with no signal blocked. Foundation's `Process` would leave it a socket, and
  /// wait for whoever closes that.
  private func start(_ arguments: [String]) throws -> pid_t {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    for fd: Int32 in 0...2 { posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0) }
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(0x80 /* POSIX_SPAWN_SETSID */ | POSIX_SPAWN_SETSIGMASK))
    var argv = arguments.map { strdup($0) } + [nil]
    defer { for argument in argv { free(argument) } }
    var pid: pid_t = 0
    let error = posix_spawnp(&pid, arguments[0], &actions, &attributes, &argv, environ)
    try #require(error == 0, "cannot start \(arguments[0]): \(String(cString: strerror(error)))")
    return pid
  }
}
