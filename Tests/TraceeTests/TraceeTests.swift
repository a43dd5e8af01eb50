import CLinux
import Glibc
import Linux
import SystemPackage
import Testing
import Tracee

/// Starts a program with its standard output in a pipe; the caller reads it to the end.
func start(_ arguments: [String]) -> (pid: pid_t, output: Int32) {
  var ends: [Int32] = [0, 0]
  pipe(&ends)
  var actions = posix_spawn_file_actions_t()
  posix_spawn_file_actions_init(&actions)
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
  posix_spawn_file_actions_addclose(&actions, ends[0])
  var pid: pid_t = 0
  let argv = arguments.map { strdup($0) } + [nil]
  posix_spawnp(&pid, arguments[0], &actions, nil, argv, environ)
  close(ends[1])
  return (pid, ends[0])
}

func readAll(_ fd: Int32) -> String {
  var text: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 4096)
  while true {
    let n = read(fd, &buffer, buffer.count)
    if n <= 0 { break }
    text += buffer[..<n]
  }
  close(fd)
  return String(decoding: text, as: UTF8.self)
}

func mappings(_ pid: pid_t) throws -> [Mapping] {
  let buffer = ReadBuffer()
  return try withExtendedLifetime(buffer) { Mapping.parse(try ProcDirectory(pid: pid).read("maps", buffer)) }
}

func vdsoAddress(_ pid: pid_t) throws -> UInt64 {
  let mapping = try mappings(pid).first { $0.name.text == "[vdso]" }
  return try #require(mapping).start
}

func hold(_ pid: pid_t) throws -> TracedProcess {
  let thread = try TracedThread(seizing: pid)
  #expect(try thread.awaitStop())
  return try TracedProcess(pid: pid, threads: [thread], vdso: vdsoAddress(pid))
}

/// ptrace and robust lists belong to one thread: each test runs on its own, synchronously.
@Suite(.serialized) struct Executor {
  static let sleeper = """
    import time
    t = time.monotonic()
    time.sleep(0.7)
    print("slept %.1f" % (time.monotonic() - t))
    """

  @Test func runsAProgramAndLeavesNoTrace() throws {
    let (pid, output) = start(["/usr/bin/python3", "-c", Self.sleeper])
    usleep(200_000)
    let before = try mappings(pid)
    let process = try hold(pid)
    try process.open(DeadManSwitch())
    let area = try #require(process.area)
    let slot = area.slots[0]

    var program = SyscallProgram(for: slot)
    let getpid = program.call(__NR_getpid)
    let fd = program.call(
      __NR_openat, Argument(AT_FDCWD), Argument(program.place(path: Array("/dev/zero".utf8))), 0)
    let buffer = program.reserve(16)
    let read = program.call(__NR_read, .result(fd), Argument(buffer.address), 16)
    program.call(__NR_close, .result(fd), expect: 0)
    slot.load(program)
    try process.enter(process.threads.indices)
    try process.waitAll()
    try slot.check(program, task: "task \(pid)")
    #expect(slot.result(getpid) == Int64(pid))
    #expect(slot.result(read) == 16)

    var failing = SyscallProgram(for: slot)
    failing.call(__NR_close, 12345, for: "closing descriptor", 12345)
    #expect(throws: Failure.self) { try process.run(failing) }

    process.close()
    process.detach()
    #expect(try mappings(pid) == before)
    #expect(readAll(output) == "slept 0.7\n")
    var status: Int32 = 0
    waitpid(pid, &status, 0)
    #expect(status == 0)
  }

  /// The tracer is a child that kills itself while the program's thread is parked in its executor.
  @Test func goesHomeWhenTheTracerDies() throws {
    for script in [
      Self.sleeper, "x = 0\nfor i in range(20000000): x += i & 3\nprint('slept 0.7' if x == 30000000 else x)",
    ] {
      let (pid, output) = start(["/usr/bin/python3", "-c", script])
      usleep(200_000)
      let tracer = fork_for_test()
      if tracer == 0 {
        guard let process = try? hold(pid), (try? process.open(DeadManSwitch())) != nil,
          let slot = process.area?.slots.first
        else { _exit(1) }
        slot.load(SyscallProgram(for: slot))
        guard (try? process.enter(process.threads.indices)) != nil, (try? process.waitAll()) != nil else { _exit(2) }
        kill(getpid(), SIGKILL)
      }
      var status: Int32 = 0
      waitpid(tracer, &status, 0)
      #expect(status == SIGKILL)
      #expect(readAll(output) == "slept 0.7\n")
      waitpid(pid, &status, 0)
      #expect(status == 0)
    }
  }
}

/// Swift hides fork; a test that needs a tracer to die makes one.
func fork_for_test() -> pid_t { pid_t(cl_syscall(Int(__NR_fork), 0, 0, 0, 0, 0, 0)) }
