import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// epoll instances with their interest lists (man 7 epoll).
///
/// The kernel keys an item by the file description and the number that it was added by (fs/eventpoll.c: struct
/// epoll_filefd), and some files wake whom they watched at that moment, so that a task of the tree must add it.
public enum Epoll: FileKind {
  public static let type = FdTypes.eventpoll

  public static func matches(_ file: DumpedFile) -> Bool {
    file.link.elementsEqual("anon_inode:[eventpoll]".utf8)
  }

  public static func record(_ file: DumpedFile, id: UInt32, _ dump: DumpContext) throws(Failure) -> FileEntry {
    var epoll = EventpollFileEntry()
    epoll.id = id
    epoll.flags = file.info.flags & descriptionFlags
    try about(file.description) { () throws(Failure) in
      epoll.fown = try file.owner()
      // Of items with the same number the kernel counts from 0, in the order that it shows them in.
      var seen: [UInt32: UInt32] = [:]
      for line in file.info.lines where line.starts(with: "tfd:".utf8) {
        var item = line.withUnsafeBytes { EventpollTfdEntry(line: $0) }
        let rank = seen[item.tfd, default: 0]
        seen[item.tfd] = rank + 1
        try find(KernelSlot(epoll: UInt32(file.number), number: item.tfd, rank: rank), of: file, &item, dump)
        epoll.tfd.append(item)
      }
    }
    var entry = FileEntry(type, id)
    entry.epfd = epoll
    return entry
  }

  /// struct kcmp_epoll_slot of linux/kcmp.h
  private struct KernelSlot {
    var epoll: UInt32
    var number: UInt32
    var rank: UInt32
  }

  /// Says how the item can be added again, where it is not by the number `tfd` of the task that `file` was seen in.
  private static func find(
    _ slot: KernelSlot, of file: DumpedFile, _ item: inout EventpollTfdEntry, _ dump: DumpContext
  ) throws(Failure) {
    if try isTarget(file.pid, slot, Int32(bitPattern: slot.number)) { return }
    let buffer = ReadBuffer()
    if let number = try descriptor(of: file.pid, slot, buffer) {
      item.source = UInt32(number)
      return
    }
    for pid in dump.processes where pid != file.pid {
      guard let epoll = try descriptor(of: pid, same: file, buffer) else { continue }
      var there = slot
      there.epoll = UInt32(epoll)
      guard let number = try descriptor(of: pid, there, buffer) else { continue }
      item.adder = UInt32(dump.imageNumber(of: pid))
      if number != Int32(bitPattern: slot.number) { item.source = UInt32(number) }
      return
    }
    throw Failure(
      "its item for descriptor \(slot.number) watches a file that no task of the tree has open together with it (epoll)",
      advice: "The program closed the descriptor but not the file, or left it to another process, "
        + "before it took it out of the interest list (man 7 epoll).")
  }

  /// Whether a task's descriptor is what an item of its epoll instance watches (man 2 kcmp).
  private static func isTarget(_ pid: Int32, _ slot: KernelSlot, _ number: Int32) throws(Failure) -> Bool {
    var slot = slot
    do throws(Errno) {
      return try withUnsafeMutablePointer(to: &slot) { pointer throws(Errno) in
        try kcmp(pid, pid, .epollTarget, Int(number), Int(bitPattern: pointer)) == 0
      }
    } catch {
      // No such descriptor.
      if error == .badFileDescriptor { return false }
      throw Failure("comparing descriptor \(number) with its item: kcmp", error)
    }
  }

  /// The first descriptor of the slot's task that its item watches; its number is the best guess.
  private static func descriptor(of pid: Int32, _ slot: KernelSlot, _ buffer: ReadBuffer) throws(Failure)
    -> Int32?
  {
    let number = Int32(bitPattern: slot.number)
    if try isTarget(pid, slot, number) { return number }
    for number in try numbers(of: pid, buffer) where try isTarget(pid, slot, number) { return number }
    return nil
  }

  /// The descriptor by which a task holds the same description.
  private static func descriptor(of pid: Int32, same file: DumpedFile, _ buffer: ReadBuffer) throws(Failure)
    -> Int32?
  {
    for number in try numbers(of: pid, buffer) {
      let order = try about("comparing descriptor \(number) of task \(pid) with it: kcmp") {
        () throws(Errno) in
        try kcmp(file.pid, pid, .file, Int(file.number), Int(number))
      }
      if order == 0 { return number }
    }
    return nil
  }

  private static func numbers(of pid: Int32, _ buffer: ReadBuffer) throws(Failure) -> [Int32] {
    try about("listing the descriptors of task \(pid)") { () throws(Errno) in
      try ProcDirectory(pid: pid).numbers(in: "fd", buffer)
    }
  }

  public static func check(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) {
    for item in try entry.part(entry.epfd).tfd where Int32(exactly: item.source ?? item.tfd) == nil {
      throw Failure("files.img: epoll \(entry.id) has an item for descriptor \(item.tfd), which cannot be")
    }
  }

  public static func open(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    let epoll = try entry.part(entry.epfd)
    return try about("epoll \(entry.id)") { () throws(Errno) -> Descriptor in
      let descriptor = Descriptor(Int32(try syscall(__NR_epoll_create1, Int(O_CLOEXEC))))
      try epoll.fown.restore(to: descriptor.rawValue, flags: epoll.flags)
      return descriptor
    }
  }

  /// What is still to be added to an instance.
  struct InterestList {
    /// The task that was the first to be asked: it adds all items that no other is named for.
    let first: RestoredThread
    var items: [EventpollTfdEntry]
  }

  public static func complete(
    _ entry: FileEntry, number: Int32, in task: RestoredThread, _ restore: RestoreContext,
    _ program: inout SyscallProgram
  ) throws(Failure) {
    // Disarmed items come first: to disarm them again they must be the only ones that can be ready.
    let items = try entry.part(entry.epfd).tfd
    var list =
      restore.interestLists[entry.id]
      ?? InterestList(first: task, items: items.filter { $0.isDisarmed } + items.filter { !$0.isDisarmed })
    var left: [EventpollTfdEntry] = []
    var disarming: Disarming?
    restore.unfinished.remove(entry.id)
    for item in list.items {
      guard item.adder.map({ $0 == task.pid }) ?? (list.first === task) else {
        left.append(item)
        continue
      }
      // The longest way: four calls around it, three for it, five to disarm it.
      guard program.hasRoom(calls: 16, bytes: 256) else {
        left.append(item)
        restore.unfinished.insert(entry.id)
        continue
      }
      let borrowed = item.source.map { borrow(Int32(bitPattern: item.tfd), from: $0, &program) }
      if item.isDisarmed {
        let used = disarming ?? Disarming(&program)
        used.add(item, to: number, &program)
        disarming = used
      } else {
        control(number, 1 /* EPOLL_CTL_ADD */, item, item.events, &program)
      }
      borrowed?.giveBack(&program)
    }
    disarming?.end(&program)
    list.items = left
    restore.interestLists[entry.id] = list
  }

  public static func finish(_ restore: RestoreContext) throws(Failure) {
    for (id, list) in restore.interestLists {
      guard let item = list.items.first else { continue }
      throw Failure(
        "epoll \(id): its item for descriptor \(item.tfd) was to be added by task \(item.adder ?? list.first.pid), "
          + "which does not hold it")
    }
  }

  @discardableResult
  fileprivate static func control(
    _ epoll: Int32, _ operation: Argument, _ item: EventpollTfdEntry, _ events: UInt32,
    mayFail: Bool = false, _ program: inout SyscallProgram
  ) -> SyscallProgram.Call {
    // struct epoll_event is packed on x86-64: u32 events, u64 data
    let words = (events, UInt32(truncatingIfNeeded: item.data), UInt32(truncatingIfNeeded: item.data >> 32))
    return program.call(
      __NR_epoll_ctl, Argument(epoll), operation, Argument(item.tfd), Argument(program.place(words)),
      mayFail: mayFail, for: "adding to an epoll instance descriptor", UInt64(item.tfd))
  }

  /// A number of the task that refers to another file for a while.
  private struct Borrowed {
    let number: Int32
    let flags: SyscallProgram.Call
    let saved: SyscallProgram.Call

    /// Puts back what was there; each of these calls fails where nothing was.
    func giveBack(_ program: inout SyscallProgram) {
      program.call(__NR_close, Argument(number), for: "closing descriptor", UInt64(number))
      program.call(__NR_dup3, .result(saved), Argument(number), 0, mayFail: true)
      program.call(
        __NR_fcntl, Argument(number), Argument(F_SETFD), .result(flags), mayFail: true)
      program.call(__NR_close, .result(saved), mayFail: true)
    }
  }

  private static func borrow(_ number: Int32, from source: UInt32, _ program: inout SyscallProgram)
    -> Borrowed
  {
    let flags = program.call(__NR_fcntl, Argument(number), Argument(F_GETFD), mayFail: true)
    let saved = program.call(__NR_fcntl, Argument(number), 1030 /* F_DUPFD_CLOEXEC */, 0, mayFail: true)
    program.call(
      __NR_dup3, Argument(source), Argument(number), 0, for: "using for an epoll item descriptor",
      UInt64(source))
    return Borrowed(number: number, flags: flags, saved: saved)
  }
}

/// How items become disarmed that have delivered their one event (EPOLLONESHOT).
///
/// epoll_ctl arms every item for errors and hang-ups (fs/eventpoll.c: do_epoll_ctl), only a delivery disarms it. So
/// the item is added for any event, and the event is taken, if the file is ready for one: nearly all files can be
/// read or written. If it is not, the item is at least armed for nothing else.
private struct Disarming {
  /// A file whose position chooses between two calls, as a program has no branches.
  let choice: SyscallProgram.Call

  init(_ program: inout SyscallProgram) {
    choice = program.call(
      __NR_memfd_create, Argument(program.place(path: Array("choice".utf8))), 1 /* MFD_CLOEXEC */,
      for: "making a file to disarm epoll items")
    program.call(__NR_lseek, .result(choice), 10, 0 /* SEEK_SET */)
  }

  func add(_ item: EventpollTfdEntry, to epoll: Int32, _ program: inout SyscallProgram) {
    Epoll.control(epoll, 1 /* EPOLL_CTL_ADD */, item, item.events | 0x7ff, &program)
    let event = program.reserve(12)
    let taken = program.call(
      __NR_epoll_wait, Argument(epoll), Argument(event.address), 1, 0, for: "disarming an epoll item")
    // 0 events: SEEK_SET to 3, which is EPOLL_CTL_MOD. 1 event: SEEK_CUR by 3, never 3 again, which epoll_ctl refuses.
    let operation = program.call(__NR_lseek, .result(choice), 3, .result(taken))
    Epoll.control(epoll, .result(operation), item, item.events, mayFail: true, &program)
  }

  func end(_ program: inout SyscallProgram) { program.call(__NR_close, .result(choice)) }
}

extension EventpollTfdEntry {
  /// No event is left, only how they would be delivered (EPOLLET, EPOLLONESHOT, EPOLLWAKEUP, EPOLLEXCLUSIVE).
  fileprivate var isDisarmed: Bool { events & 0x0fff_ffff == 0 }

  /// A line of fdinfo: "tfd: 7 events: 19 data: 2a  pos:0 ino:40f sdev:10" (fs/eventpoll.c: ep_show_fdinfo).
  fileprivate init(line: UnsafeRawBufferPointer) {
    self.init()
    var c = ByteCursor(line)
    while !c.atEnd {
      c.skipBlanks()
      let key = c.upTo(UInt8(ascii: ":"))
      c.skipBlanks()
      if key.elementsEqual("tfd".utf8) {
        tfd = UInt32(truncatingIfNeeded: c.unsigned())
      } else if key.elementsEqual("events".utf8) {
        events = UInt32(truncatingIfNeeded: c.hex())
      } else if key.elementsEqual("data".utf8) {
        data = c.hex()
      } else if key.elementsEqual("pos".utf8) {
        pos = UInt64(bitPattern: c.decimal())
      } else if key.elementsEqual("ino".utf8) {
        inode = c.hex()
      } else if key.elementsEqual("sdev".utf8) {
        dev = UInt32(truncatingIfNeeded: c.hex())
      } else {
        _ = c.upTo(0x20)
      }
    }
  }
}
