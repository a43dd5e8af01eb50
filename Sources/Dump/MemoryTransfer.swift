import CLinux
import Glibc
import Linux
import Resources
import SystemPackage
import Tracee

/// A task under dump writes its pages into an image file: the bytes go from its memory to the page cache without a stop in between.
/// Several tasks write at the same time; while a single one does, the tracer writes from the other end.
///
/// A task that sees the tracer in its `/proc` opens the image there, through the tracer's descriptor, and one program is enough for
/// it. The others, in namespaces of their own or of other users, get the descriptor over a socket pair of their own. Where a
/// task cannot do that (no free descriptor, RLIMIT_FSIZE, a descriptor table that another process has too), the tracer copies.
final class MemoryTransfer {
  private let task: DumpedTask
  /// Who writes: the task, or its copy; and its PID.
  private let process: any ProgramRunner
  private let writer: Int32
  private let file: Descriptor
  /// What is still to be written, in pieces.
  private var pieces: ArraySlice<Pages.Placed>
  private let all: Pages
  /// Bytes at the beginning of the file that were copied ahead.
  private let done: UInt64
  /// In the task: the image, and the socket pair that it came over.
  private var received: [Int32] = []
  private var running: SyscallProgram?
  /// The call of the running program by which the task opens the image, and whether it closes it again.
  private var opening: (call: SyscallProgram.Call, closes: Bool)?
  private let mustCopy: Bool
  /// Whether the tracer may read its memory meanwhile, which it does with nobody else's pages (``Pages/areExclusive(_:_:)``).
  private var canBeHelped: Bool
  private var pagemap: Descriptor?
  private let free: [Int32]

  private static let pieceBytes: UInt64 = 2 << 20
  private static let programBytes: UInt64 = 32 << 20

  /// By the task itself. `sharesTable`: another process of the tree has the same descriptor table.
  init(
    _ task: DumpedTask, _ process: TracedProcess, _ pages: Pages, to image: consuming PagesImage, sharesTable: Bool
  ) {
    self.task = task
    self.process = process
    writer = task.pid
    done = image.done
    file = image.file
    all = pages
    pieces = Self.cut(pages.accessible, behind: done)[...]
    mustCopy = sharesTable || Self.hasFileLimit(task)
    free = Self.freeNumbers(3, besides: task.descriptors.map(\.number))
    canBeHelped = !pages.isShared && !task.hasChildren
  }

  /// By a copy of the task, which has no descriptors.
  init(_ task: DumpedTask, _ copy: TaskCopy, _ pages: Pages, to file: consuming Descriptor, hasFileLimit: Bool) {
    self.task = task
    process = copy
    writer = copy.pid
    self.file = file
    all = pages
    done = 0
    pieces = Self.cut(pages.accessible, behind: 0)[...]
    mustCopy = hasFileLimit
    free = Self.freeNumbers(3, besides: [])
    canBeHelped = false
  }

  /// Whether the size of files that it writes is limited: it would be sent SIGXFSZ.
  static func hasFileLimit(_ task: DumpedTask) -> Bool {
    (task.threads[0].core.tc?.rlimits?.rlimits.dropFirst().first?.cur).map { $0 != UInt64.max } ?? false
  }

  /// Sets all tasks going. When this throws, none is any more.
  static func begin(_ transfers: [MemoryTransfer]) throws(Failure) {
    do throws(Failure) {
      for transfer in transfers { transfer.prepareHelp() }
      for transfer in transfers { try transfer.begin() }
    } catch {
      end(transfers)
      throw error
    }
  }

  /// Waits until all is written. When this throws, ``end(_:)`` is still to be called.
  static func finish(_ transfers: [MemoryTransfer]) throws(Failure) {
    var left = transfers
    while !left.isEmpty {
      for transfer in left {
        if left.count == 1 { try transfer.help() }
        try transfer.finishRunning()
        try transfer.startNext()
      }
      left.removeAll { $0.running == nil }
    }
    if let failure = end(transfers) { throw failure }
  }

  /// Takes the descriptors away from all tasks, whatever fails on the way; the first failure.
  @discardableResult
  static func end(_ transfers: [MemoryTransfer]) -> Failure? {
    var failure: Failure?
    for transfer in transfers {
      // What fails once for want of something may work the second time.
      for _ in 0..<2 {
        do throws(Failure) {
          try transfer.end()
          break
        } catch {
          failure = failure ?? error
        }
      }
    }
    return failure
  }

  /// Has the task open the image and write its first pieces; or gives it the image; or copies for it.
  private func begin() throws(Failure) {
    guard let slot = process.programSlot else { return }
    if mustCopy { return try copyAll() }
    try copy(all.inaccessible)
    if pieces.isEmpty { return }
    // What to close if the tracer dies: the lowest free numbers, which the task's next descriptors will have.
    slot.setCleanup(free.map { (__NR_close, UInt64($0)) })
    if task.seesTracer, all.inaccessible.isEmpty { openFromInside(slot) } else { try give(slot) }
  }

  private func copyAll() throws(Failure) {
    pieces = []
    try copy(all.placed)
  }

  /// Starts a program that opens the image, writes pieces, and closes it if no others are left.
  private func openFromInside(_ slot: Slot) {
    var sequence = ProgramSequence(slot)
    let path = Array("/proc/\(getpid())/fd/\(file.rawValue)".utf8)
    let address = sequence.current.place(path: path)
    let call = sequence.current.call(
      __NR_openat, Argument(AT_FDCWD), Argument(address), Argument(O_WRONLY | O_CLOEXEC), 0, for: "opening its pages image")
    let part = nextPart()
    Pages.write(part, to: .result(call), &sequence)
    pieces = pieces.dropFirst(part.count)
    let closes = pieces.isEmpty
    if closes { sequence.current.call(__NR_close, .result(call)) }
    opening = (call, closes)
    process.start(sequence.current)
    running = sequence.current
  }

  /// After the program of ``openFromInside(_:)``: `false` if the task was not let in, and has to be given the image.
  private func wasLetIn(_ slot: Slot, _ opening: (call: SyscallProgram.Call, closes: Bool)) -> Bool {
    let result = slot.result(opening.call)
    let refusals: [Errno] = [
      .permissionDenied, .notPermitted, .noSuchFileOrDirectory, .noSuchProcess, .tooManyOpenFiles, .tooManyOpenFilesInSystem,
    ]
    if result < 0 { return !refusals.contains(Errno(rawValue: Int32(-result))) }
    received = [Int32(result)]
    return true
  }

  /// Sends the task the image over a socket pair, and sets it going.
  private func give(_ slot: Slot) throws(Failure) {
    pieces = Self.cut(all.accessible, behind: done)[...]
    guard let socket = try Self.openSocket(slot, process) else {
      slot.setCleanup([])
      return try copyAll()
    }
    do throws(Failure) {
      received = [try send(socket, slot), socket.0, socket.1]
    } catch {
      try Self.close(free, slot, process)
      throw error
    }
    try startNext()
  }

  /// As many pieces as a program should write.
  private func nextPart() -> ArraySlice<Pages.Placed> {
    var bytes: UInt64 = 0
    return pieces.prefix {
      bytes += UInt64($0.range.count)
      return bytes <= Self.programBytes
    }.prefix(1024)
  }

  /// Sets the task going on the next pieces, if there are any.
  private func startNext() throws(Failure) {
    guard running == nil, !pieces.isEmpty, let slot = process.programSlot, let image = received.first else { return }
    let part = nextPart()
    var sequence = ProgramSequence(slot)
    Pages.write(part, to: Argument(image), &sequence)
    pieces = pieces.dropFirst(part.count)
    for program in sequence.programs.dropLast() { try run(program) }
    if let last = sequence.programs.last {
      process.start(last)
      running = last
    }
  }

  private func run(_ program: SyscallProgram) throws(Failure) {
    do throws(Failure) { try process.run(program) } catch { throw Self.explain(error, file.rawValue) }
  }

  private func finishRunning() throws(Failure) {
    guard let program = running, let slot = process.programSlot else { return }
    running = nil
    let opening = self.opening
    self.opening = nil
    do throws(Failure) {
      try process.finish(program)
    } catch {
      guard let opening else { throw Self.explain(error, file.rawValue) }
      if wasLetIn(slot, opening) { throw Self.explain(error, file.rawValue) }
      return try give(slot)
    }
    guard let opening else { return }
    if opening.closes {
      slot.setCleanup([])
    } else {
      received = [Int32(slot.result(opening.call))]
    }
  }

  /// Gives the image its length before anyone writes to it, which the tracer needs to help.
  private func prepareHelp() {
    guard canBeHelped else { return }
    canBeHelped = all.byteCount > Self.pieceBytes && ImageWindow.prepare(file.rawValue, length: all.byteCount)
    if canBeHelped { pagemap = try? task.openPagemap() }
  }

  /// Writes the last pieces while the task is busy with others.
  private func help() throws(Failure) {
    while canBeHelped, !process.isIdle, let last = pieces.last {
      var bytes: UInt64 = 0
      var first = last.offset + UInt64(last.range.count)
      let part = pieces.reversed().prefix {
        bytes += UInt64($0.range.count)
        guard bytes <= Self.pieceBytes, $0.offset + UInt64($0.range.count) == first else { return false }
        first = $0.offset
        return true
      }.prefix(1024)
      let parts = Array(part.reversed())
      guard Pages.areExclusive(pagemap?.rawValue ?? -1, parts.map(\.range)) else { return canBeHelped = false }
      // What it cannot write, such as for want of room, is left to the task, which says why.
      guard ImageWindow.copy(parts, of: writer, to: file.rawValue) else { return }
      pieces = pieces.dropLast(part.count)
    }
  }

  /// Takes the descriptors away from the task again.
  private func end() throws(Failure) {
    pieces = []
    if let program = running {
      running = nil
      do throws(Failure) { try process.finish(program) } catch {}  // another failure is told
      if opening != nil { received = free }
    }
    guard !received.isEmpty, let slot = process.programSlot else { return }
    try Self.close(free, slot, process)
    received = []
  }

  private static func cut(_ ranges: [Pages.Placed], behind done: UInt64) -> [Pages.Placed] {
    var pieces: [Pages.Placed] = []
    if done == 0 { pieces.reserveCapacity(ranges.count) }
    for (range, offset) in ranges where offset + UInt64(range.count) > done {
      let first = range.lowerBound + (done > offset ? done - offset : 0)
      for start in stride(from: first, to: range.upperBound, by: Int(pieceBytes)) {
        pieces.append((start..<min(start + pieceBytes, range.upperBound), offset + (start - range.lowerBound)))
      }
    }
    return pieces
  }

  /// Whatever the task has got of these goes; none of them was in use.
  private static func close(_ descriptors: [Int32], _ slot: Slot, _ process: any ProgramRunner) throws(Failure) {
    var program = SyscallProgram(for: slot)
    for fd in descriptors { program.call(__NR_close, Argument(fd), mayFail: true) }
    try process.run(program)
    slot.setCleanup([])
  }

  /// A write that was cut short does not say why; the next one does.
  private static func explain(_ failure: Failure, _ file: Int32) -> Failure {
    guard failure.errno == nil else { return failure }
    let end = cl_syscall(Int(__NR_lseek), Int(file), 0, 2 /* SEEK_END */, 0, 0, 0)
    var page: (UInt64, UInt64) = (0, 0)
    let result = withUnsafeMutablePointer(to: &page) {
      cl_syscall(Int(__NR_pwrite64), Int(file), Int(bitPattern: $0), 16, (end + 4095) & ~4095, 0, 0)
    }
    guard result < 0 else { return failure }
    let again = Errno(rawValue: Int32(-result))
    return Failure(
      "writing a pages image", again, advice: "The images folder is full; make room or choose another with --images.")
  }

  /// `nil` if the task has no room for two more descriptors.
  private static func openSocket(_ slot: Slot, _ process: any ProgramRunner) throws(Failure) -> (Int32, Int32)? {
    var program = SyscallProgram(for: slot)
    let ends = program.reserve(8)
    let made = program.call(
      __NR_socketpair, Argument(AF_UNIX), Argument(Int(SOCK_DGRAM.rawValue) | 0o2000000), 0,
      Argument(ends.address), mayFail: true)
    try process.run(program)
    if slot.result(made) < 0 { return nil }
    return slot.value(ends, as: (Int32, Int32).self)
  }

  /// Sends a descriptor to the task (man 7 unix, SCM_RIGHTS); its number there.
  private func send(_ socket: (Int32, Int32), _ slot: Slot) throws(Failure) -> Int32 {
    try about("\(task.description): sending it the image file") { () throws(Errno) in
      let pidfd = try pidfdOpen(writer)
      let end = try pidfdGetfd(pidfd.rawValue, socket.1)
      try sendDescriptor(file.rawValue, over: end.rawValue)
    }
    var program = SyscallProgram(for: slot)
    let byte = program.reserve(8)
    let vector = program.place((byte.address, UInt64(1)))
    let control = program.reserve(24)
    // struct msghdr: name, its length, iovec, its count, control, its length, flags
    let header = program.place(
      (UInt64(0), UInt64(0), vector, UInt64(1), control.address, UInt64(24), UInt64(0)))
    program.call(
      __NR_recvmsg, Argument(socket.0), Argument(header), 0x4000_0000 /* MSG_CMSG_CLOEXEC */, expect: 1,
      for: "receiving the image file")
    try process.run(program)
    // struct cmsghdr: u64 length, s32 level, s32 type, then the descriptor
    return slot.bytes(control).loadUnaligned(fromByteOffset: 16, as: Int32.self)
  }

  private static func freeNumbers(_ count: Int, besides numbers: [Int32]) -> [Int32] {
    let used = Set(numbers)
    var free: [Int32] = []
    var next: Int32 = 0
    while free.count < count {
      if !used.contains(next) { free.append(next) }
      next += 1
    }
    return free
  }

  /// The slow way: through a buffer of the tracer (man 5 proc_pid_mem, which asks for no access rights).
  private func copy(_ parts: [Pages.Placed]) throws(Failure) {
    if parts.isEmpty { return }
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
    defer { buffer.deallocate() }
    try about("\(task.description): copying its memory") { () throws(Errno) in
      let memory = try Descriptor.open("/proc/\(writer)/mem")
      for (range, offset) in parts {
        var done = 0
        while done < range.count {
          let length = min(range.count - done, buffer.count)
          let n = try syscall(
            __NR_pread64, Int(memory.rawValue), Int(bitPattern: buffer.baseAddress), length, Int(range.lowerBound) + done)
          if n == 0 { throw .ioError }
          var written = 0
          while written < n {
            written += try syscall(
              __NR_pwrite64, Int(file.rawValue), Int(bitPattern: buffer.baseAddress) + written, n - written,
              Int(offset) + done + written)
          }
          done += n
        }
      }
    }
  }
}

/// Sends one descriptor over a unix socket.
func sendDescriptor(_ fd: Int32, over socket: Int32) throws(Errno) {
  var byte: UInt8 = 0
  // struct cmsghdr with one descriptor: length 20, padded to 24
  var control: (UInt64, Int32, Int32, Int32, Int32) = (20, SOL_SOCKET, 1 /* SCM_RIGHTS */, fd, 0)
  try withUnsafeMutablePointer(to: &byte) { byte throws(Errno) in
    var vector = (UInt64(UInt(bitPattern: byte)), UInt64(1))
    try withUnsafeMutablePointer(to: &vector) { vector throws(Errno) in
      try withUnsafeMutablePointer(to: &control) { control throws(Errno) in
        var header = (
          UInt64(0), UInt64(0), UInt64(UInt(bitPattern: vector)), UInt64(1),
          UInt64(UInt(bitPattern: control)), UInt64(24),
          UInt64(0)
        )
        try withUnsafeMutablePointer(to: &header) { header throws(Errno) in
          _ = try syscall(__NR_sendmsg, Int(socket), Int(bitPattern: header), 0)
        }
      }
    }
  }
}
