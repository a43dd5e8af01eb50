import Glibc
import ProcessTree

/// A live process tree that is grown by the calls of a random history (Programs/fixtures/orchard.c).
final class Orchard {
  private static let places = 512
  private static let placeSize = 48

  let folder: String
  private(set) var root: pid_t = 0
  private var started: pid_t = 0
  private let board: UnsafeMutableRawPointer
  /// The place of each process of the history.
  private var place: [Int: Int] = [:]
  private var seen: Set<pid_t> = []

  /// Compiles the program once for many orchards.
  static func compile(in folder: String) throws -> String {
    let source = "/" + #filePath.split(separator: "/").dropLast(2).joined(separator: "/") + "/Programs/fixtures/orchard.c"
    let log = folder + "/gcc"
    let gcc = try Processes.start(
      ["gcc", "-O2", "-Wall", "-o", "\(folder)/orchard", source], in: folder, output: log, errors: log, newSession: false)
    guard let ended = Processes.wait(for: gcc, seconds: 60), ended.code == 0 else {
      throw LiveFailure("gcc: \(Files.text(log) ?? "")")
    }
    return folder + "/orchard"
  }

  /// Plants the root and makes every call of the history; what the kernel refuses there is refused here too.
  init(_ history: RandomHistory, program: String) throws {
    folder = try Files.makeTemporaryFolder("orchard")
    try Files.write([UInt8](repeating: 0, count: Self.places * Self.placeSize), to: folder + "/board")
    let fd = open(folder + "/board", O_RDWR | O_CLOEXEC)
    defer { close(fd) }
    guard let mapped = mmap(nil, Self.places * Self.placeSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), mapped != MAP_FAILED
    else { throw LiveFailure("mmap: \(String(cString: strerror(errno)))") }
    board = mapped
    do {
      try grow(history, program)
    } catch {
      end()
      throw error
    }
  }

  private func grow(_ history: RandomHistory, _ program: String) throws {
    guard case .clone(_, let root, let flags, _)? = history.calls.first else { return }
    place[root] = 0
    let own = flags.contains(.newPID) ? ["unshare", "--pid", "--fork"] : []
    started = try Processes.start(
      own + [program, folder + "/board"], in: folder, output: "/dev/null", errors: "/dev/null", newSession: false)
    guard Processes.poll(5, { pid(at: 0) != 0 }) else { throw LiveFailure("the root does not start") }
    self.root = pid(at: 0)
    for call in history.calls.dropFirst() { try make(call) }
    // The last who were told to end are gone, or zombies.
    usleep(20_000)
    try forgetLost()
  }

  /// Orphans that have come to this process are no part of the tree any more, and would be in its way.
  private func forgetLost() throws {
    let lost = seen.subtracting(Processes.tree(of: root))
    for pid in lost { kill(pid, SIGKILL) }
    let gone = Processes.poll(5) {
      for pid in lost { waitpid(pid, nil, WNOHANG) }
      // Who was below one of them goes to the init of its namespace, which may be in the tree, and there becomes a zombie, but not at once.
      let tree = Set(Processes.tree(of: root))
      return lost.allSatisfy { pid in
        Processes.state(of: pid).map { $0 == "Z" && tree.contains(pid) } ?? true
      }
    }
    if !gone { throw LiveFailure("orphans are still there: \(lost)") }
    seen = Set(Processes.tree(of: root))
  }

  private func make(_ call: RandomHistory.Call) throws {
    switch call {
    case .clone(let parent, let child, let flags, let signal):
      guard place.count < Self.places else { throw LiveFailure("more than \(Self.places) processes") }
      let new = place.count
      place[child] = new
      let number = try command("c", by: parent, Int64(new), Int64(flags.rawValue), Int64(signal.rawValue))
      guard number > 0 else { return }
      guard Processes.poll(5, { pid(at: new) != 0 }) else { throw LiveFailure("a child does not start") }
      seen.insert(pid(at: new))
    case .thread(let by): try command("t", by: by)
    case .setsid(let by): try command("s", by: by)
    case .setpgid(let by, let target, let other):
      let depth = numbers("NSpid", of: by).count - 1
      let pid = target == by ? 0 : numbers("NSpid", of: target)[checked: depth] ?? 0
      let group = other.map { numbers("NSpgid", of: $0)[checked: depth] ?? 0 } ?? pid
      try command("g", by: by, Int64(pid), Int64(group))
    case .setChildSubreaper(let by, let isOn): try command("r", by: by, isOn ? 1 : 0)
    case .exit(let by, let status):
      let pid = pid(of: by)
      // PID 1 is not ended by a signal of its own.
      let isInit = numbers("NSpid", of: by).last == 1
      try command("x", by: by, Int64(isInit && status.exitCode == nil ? 0x100 : status.rawValue & ~0x80))
      guard Processes.poll(5, { Processes.state(of: pid).map { $0 == "Z" } ?? true }) else {
        throw LiveFailure("process \(pid) does not end")
      }
    case .wait(let by, let child):
      let depth = numbers("NSpid", of: by).count - 1
      try command("w", by: by, Int64(numbers("NSpid", of: child)[checked: depth] ?? -1))
    case .exec(let by): try command("e", by: by)
    case .unshare(let by, let flags): try command("u", by: by, Int64(flags.rawValue))
    case .setns(let by, let other): try command("n", by: by, Int64(pid(of: other)))
    }
  }

  /// Has a process make a call: what it returned.
  @discardableResult
  private func command(_ letter: Character, by process: Int, _ a: Int64 = 0, _ b: Int64 = 0, _ c: Int64 = 0) throws -> Int64 {
    // Who is not there does nothing; the model and the kernel may differ in whom a namespace's end took with it.
    guard let place = place[process], pid(at: place) != 0, let state = Processes.state(of: pid(at: place)), state != "Z" else {
      return -Int64(ESRCH)
    }
    let own = board + place * Self.placeSize
    own.storeBytes(of: Int32(letter.asciiValue ?? 0), toByteOffset: 4, as: Int32.self)
    own.storeBytes(of: a, toByteOffset: 8, as: Int64.self)
    own.storeBytes(of: b, toByteOffset: 16, as: Int64.self)
    own.storeBytes(of: c, toByteOffset: 24, as: Int64.self)
    let turn = own.load(as: UInt32.self) + 1
    own.storeBytes(of: turn, as: UInt32.self)
    syscall_futexWake(own)
    let pid = pid(at: place)
    let isDone = Processes.poll(5) { own.load(as: UInt32.self) == turn + 1 || Processes.state(of: pid) == nil }
    guard isDone else { throw LiveFailure("process \(pid) does not answer '\(letter)'") }
    return own.load(fromByteOffset: 32, as: Int64.self)
  }

  private func pid(at place: Int) -> pid_t { (board + place * Self.placeSize).load(fromByteOffset: 40, as: Int32.self) }
  private func pid(of process: Int) -> pid_t { place[process].map { pid(at: $0) } ?? 0 }

  private func numbers(_ name: String, of process: Int) -> [Int32] { LiveTree.numbers(name, of: pid(of: process)) }

  /// Everything of the tree is gone, and reaped where that is up to this process.
  func expectGone() throws {
    let gone = Processes.poll(5) {
      for pid in seen.union([started]) { waitpid(pid, nil, WNOHANG) }
      return seen.allSatisfy { Processes.state(of: $0) == nil }
    }
    if !gone { throw LiveFailure("still there: \(seen.filter { Processes.state(of: $0) != nil })") }
  }

  func end() {
    Processes.end(allOf: folder, and: seen.union([started]))
    munmap(board, Self.places * Self.placeSize)
    Files.remove(folder)
  }
}

/// Wakes whoever waits for a word in shared memory (man 2 futex); the word is at the start of the place.
private func syscall_futexWake(_ word: UnsafeMutableRawPointer) {
  typealias Call = @convention(c) (Int, Int, Int, Int, Int, Int, Int) -> Int
  guard let address = dlsym(nil, "syscall") else { return }
  _ = unsafeBitCast(address, to: Call.self)(202, Int(bitPattern: word), 1, 1, 0, 0, 0)
}

extension Array {
  subscript(checked index: Int) -> Element? { indices.contains(index) ? self[index] : nil }
}

/// All IDs of a live tree at all levels, as /proc shows them: a line per process.
struct LiveTree: Equatable, CustomStringConvertible {
  let lines: [String]
  var description: String { lines.joined(separator: "\n") }

  init(of root: pid_t) {
    // Namespaces have other inodes after a restore: they are numbered as they come.
    var namespaces: [String: Int] = [:]
    func namespace(_ name: String, _ pid: pid_t) -> String {
      guard let link = Files.link("/proc/\(pid)/ns/\(name)") else { return "-" }
      if namespaces[link] == nil { namespaces[link] = namespaces.count }
      return "\(namespaces[link] ?? 0)"
    }
    // The order of siblings says who came to the parent when, which is no ID.
    lines = Processes.tree(of: root).sorted().map { pid in
      let isZombie = Processes.state(of: pid) == "Z"
      let stat = Files.text("/proc/\(pid)/stat") ?? ""
      // The fields after the name: the first is the state, number 3 of man 5 proc_pid_stat.
      let fields = stat[(stat.lastIndex(of: ")") ?? stat.startIndex)...].dropFirst(2).split(separator: " ")
      let threads = Files.names("/proc/\(pid)/task").compactMap { pid_t($0) }.filter { $0 != pid }
        .map { Self.text("NSpid", of: $0) }.sorted()
      var line = ["NSpid", "NSpgid", "NSsid"].map { "\($0) \(Self.text($0, of: pid))" }.joined(separator: ", ")
      line += pid == root ? "" : ", parent \(fields[checked: 1] ?? "")"
      line += ", exit signal \(fields[checked: 35] ?? ""), threads \(threads)"
      line +=
        isZombie
        ? ", zombie with \(fields[checked: 49] ?? "")" : ", in \(namespace("pid", pid)), children in \(namespace("pid_for_children", pid))"
      return line
    }
  }

  /// A line of `/proc/PID/status` that has a number for each level.
  static func numbers(_ name: String, of pid: pid_t) -> [Int32] { text(name, of: pid).split(separator: "/").compactMap { Int32($0) } }

  private static func text(_ name: String, of pid: pid_t) -> String {
    let status = Files.text("/proc/\(pid)/status") ?? ""
    guard let line = status.split(separator: "\n").first(where: { $0.hasPrefix(name + ":") }) else { return "" }
    return line.dropFirst(name.count + 1).split(whereSeparator: { $0 == "\t" || $0 == " " }).joined(separator: "/")
  }
}
