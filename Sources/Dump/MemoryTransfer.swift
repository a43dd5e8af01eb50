import CLinux
import Glibc
import Linux
import Resources
import SystemPackage
import Tracee

/// A task under dump writes its pages into an image file: the descriptor reaches it over a socket pair of its own, and the bytes
/// go from its memory to the page cache without a stop in between. Several tasks write at the same time; while a single one does,
/// the tracer writes from the other end.
///
/// Where the task cannot do that (no free descriptor, RLIMIT_FSIZE), the tracer copies them (``MemoryCopier``).
final class MemoryTransfer {
  private let task: DumpedTask
  private let process: TracedProcess
  private let file: Descriptor
  /// What is still to be written, in pieces.
  private var pieces: ArraySlice<Pages.Placed>
  private let all: Pages
  /// In the task: the image, and the socket pair that it came over.
  private var received: [Int32] = []
  private var running: SyscallProgram?
  private let free: [Int32]

  private static let pieceBytes: UInt64 = 2 << 20
  private static let programBytes: UInt64 = 32 << 20

  init(_ task: DumpedTask, _ process: TracedProcess, _ pages: Pages, to file: consuming Descriptor) {
    self.task = task
    self.process = process
    self.file = file
    all = pages
    pieces = Self.cut(pages.accessible)[...]
    free = Self.freeNumbers(3, task)
  }

  static func run(_ transfers: [MemoryTransfer]) throws(Failure) {
    var open: [MemoryTransfer] = []
    for transfer in transfers {
      do throws(Failure) {
        if try transfer.begin() { open.append(transfer) }
      } catch {
        endAll(open)
        throw error
      }
    }
    do throws(Failure) {
      let alone = open.count == 1 && ImageWindow.prepare(open[0].file.rawValue, length: open[0].all.byteCount)
      for transfer in open { try transfer.startNext() }
      var left = open
      while !left.isEmpty {
        for transfer in left {
          if alone { try transfer.help() }
          try transfer.finishRunning()
          try transfer.startNext()
        }
        left.removeAll { $0.running == nil }
      }
    } catch {
      endAll(open)
      throw error
    }
    if let failure = endAll(open) { throw failure }
  }

  /// Takes the descriptors away from all tasks, whatever fails on the way; the first failure.
  @discardableResult
  private static func endAll(_ transfers: [MemoryTransfer]) -> Failure? {
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

  /// Gives the task the image. `false`: it could not take it, and all is written already.
  private func begin() throws(Failure) -> Bool {
    guard let area = process.area, let slot = area.slots.first else { return false }
    // What to close if the tracer dies: the lowest free numbers, which the task's next descriptors will have.
    slot.setCleanup(free.map { (__NR_close, UInt64($0)) })
    let limited =
      (task.threads[0].core.tc?.rlimits?.rlimits.dropFirst().first?.cur).map { $0 != UInt64.max } ?? false
    guard !limited, let socket = try Self.openSocket(slot, process) else {
      slot.setCleanup([])
      try Self.copy(all.placed, of: task, to: file.rawValue)
      return false
    }
    do throws(Failure) {
      try Self.copy(all.inaccessible, of: task, to: file.rawValue)
      received = [try Self.send(file, over: socket, slot, process, task), socket.0, socket.1]
    } catch {
      try Self.close(free, slot, process)
      throw error
    }
    return true
  }

  /// Sets the task going on the next pieces, if there are any.
  private func startNext() throws(Failure) {
    guard !pieces.isEmpty, let slot = process.area?.slots.first else { return }
    var bytes: UInt64 = 0
    let part = pieces.prefix {
      bytes += UInt64($0.range.count)
      return bytes <= Self.programBytes
    }.prefix(1024)
    var sequence = ProgramSequence(slot)
    Pages.write(part, to: received[0], &sequence)
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
    guard let program = running else { return }
    running = nil
    do throws(Failure) { try process.finish(program) } catch { throw Self.explain(error, file.rawValue) }
  }

  /// Writes the last pieces while the task is busy with others.
  private func help() throws(Failure) {
    while !process.isIdle, let last = pieces.last {
      var bytes: UInt64 = 0
      var first = last.offset + UInt64(last.range.count)
      let part = pieces.reversed().prefix {
        bytes += UInt64($0.range.count)
        guard bytes <= Self.pieceBytes, $0.offset + UInt64($0.range.count) == first else { return false }
        first = $0.offset
        return true
      }.prefix(1024)
      // What it cannot write, such as for want of room, is left to the task, which says why.
      guard ImageWindow.copy(part.reversed(), of: task.pid, to: file.rawValue) else { return }
      pieces = pieces.dropLast(part.count)
    }
  }

  /// Takes the descriptors away from the task again.
  private func end() throws(Failure) {
    if let program = running {
      running = nil
      do throws(Failure) { try process.finish(program) } catch {}  // another failure is told
    }
    guard !received.isEmpty, let slot = process.area?.slots.first else { return }
    try Self.close(free, slot, process)
    received = []
  }

  private static func cut(_ ranges: [Pages.Placed]) -> [Pages.Placed] {
    var pieces: [Pages.Placed] = []
    for (range, offset) in ranges {
      for start in stride(from: range.lowerBound, to: range.upperBound, by: Int(pieceBytes)) {
        pieces.append((start..<min(start + pieceBytes, range.upperBound), offset + (start - range.lowerBound)))
      }
    }
    return pieces
  }

  /// Whatever the task has got of these goes; none of them was in use.
  private static func close(_ descriptors: [Int32], _ slot: Slot, _ process: TracedProcess) throws(Failure) {
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
  private static func openSocket(_ slot: Slot, _ process: TracedProcess) throws(Failure) -> (Int32, Int32)? {
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
  private static func send(
    _ file: borrowing Descriptor, over socket: (Int32, Int32), _ slot: Slot, _ process: TracedProcess,
    _ task: DumpedTask
  ) throws(Failure) -> Int32 {
    try about("\(task.description): sending it the image file") { () throws(Errno) in
      let pidfd = try pidfdOpen(task.pid)
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

  private static func freeNumbers(_ count: Int, _ task: DumpedTask) -> [Int32] {
    let used = Set(task.descriptors.map(\.number))
    var numbers: [Int32] = []
    var next: Int32 = 0
    while numbers.count < count {
      if !used.contains(next) { numbers.append(next) }
      next += 1
    }
    return numbers
  }

  /// The slow way: through a buffer of the tracer (man 5 proc_pid_mem, which asks for no access rights).
  static func copy(_ parts: [Pages.Placed], of task: DumpedTask, to file: Int32) throws(Failure) {
    if parts.isEmpty { return }
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 20, alignment: 4096)
    defer { buffer.deallocate() }
    try about("\(task.description): copying its memory") { () throws(Errno) in
      let memory = try task.directory.open("mem")
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
              __NR_pwrite64, Int(file), Int(bitPattern: buffer.baseAddress) + written, n - written,
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
