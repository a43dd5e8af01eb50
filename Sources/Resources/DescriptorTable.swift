import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// The descriptors of a process: which number names which file description, and close-on-exec.
public enum DescriptorTable {
  /// Whether a process has so many descriptors that these will be looked at by an iterator. Since Linux 6.2 the size is their number
  /// (fs/proc/fd.c: proc_fd_getattr).
  public static func isLarge(_ pid: Int32) -> Bool {
    (try? fstat(at: AT_FDCWD, "/proc/\(pid)/fd")).map { $0.st_size >= OpenFiles.many } ?? false
  }

  /// Looks at every descriptor. What cannot be dumped is returned in words; nothing has been changed. `parent` has been looked at
  /// before.
  public static func survey(
    _ task: DumpedTask, parent: DumpedTask?, _ options: DumpOptions, _ examiner: DescriptorExaminer
  ) throws(Failure) -> [String] {
    let count = try about("\(task.description): counting its descriptors") { () throws(Errno) in
      Int(try task.directory.folder.status("fd").st_size)
    }
    if let parent { task.descriptors = inherited(task, from: parent, count: count) }
    if count > 0, task.descriptors.count == count { return [] }

    let found = try examiner.examine(task, count: count, known: Set(task.descriptors.lazy.map(\.number)), options)
    if task.descriptors.isEmpty {
      task.descriptors = found.descriptors
    } else if !found.descriptors.isEmpty {
      task.descriptors = (task.descriptors + found.descriptors).sorted { $0.number < $1.number }
    }
    return found.objections
  }

  /// The descriptors that name the very description that the parent has under the same number: there is nothing new to find out
  /// about those.
  private static func inherited(_ task: DumpedTask, from parent: DumpedTask, count: Int) -> [DumpedDescriptor] {
    // A parent with many others is not worth the comparisons.
    guard parent.descriptors.count <= 4 * count else { return [] }
    var list: [DumpedDescriptor] = []
    list.reserveCapacity(parent.descriptors.count)
    for descriptor in parent.descriptors where !descriptor.file.file.mayBeLocked {
      let number = Int(descriptor.number)
      // EBADF: it has no such descriptor.
      guard let order = try? kcmp(task.pid, parent.pid, .file, number, number), order == 0 else { continue }
      list.append(DumpedDescriptor(number: descriptor.number, file: descriptor.file))
    }
    // Siblings have often inherited the same, and hold one list.
    if list.elementsEqual(parent.lastInherited, by: { $0.number == $1.number && $0.file === $1.file }) { return parent.lastInherited }
    parent.lastInherited = list
    return list
  }

  /// Records what the survey found.
  public static func record(_ task: DumpedTask, _ dump: DumpContext, _ companion: Companion) throws(Failure) {
    try dump.files.arrange(task.descriptors, companion)
    task.descriptorEntries.reserveCapacity(task.descriptors.count)
    for descriptor in task.descriptors {
      var entry = FdinfoEntry()
      entry.id = try dump.files.id(of: descriptor.file, dump)
      entry.fd = UInt32(descriptor.number)
      entry.type = descriptor.file.kind.type
      if let closesOnExec = descriptor.closesOnExec { entry.flags = closesOnExec ? 1 : 0 }
      task.descriptorEntries.append(entry)
    }
  }

  /// Checks a table before anything is made.
  public static func check(_ task: RestoredTask, _ restore: RestoreContext) throws(Failure) {
    func place(_ number: UInt32) -> String { "fdinfo-\(task.ids.filesId).img: descriptor \(number)" }
    // Writers have them in ascending order, which takes no time to find out.
    let numbers = task.descriptors.map(\.fd).sorted()
    if let last = numbers.last, last >= 1 << 20 { throw Failure("\(place(last)) is out of range") }
    if let twice = zip(numbers, numbers.dropFirst()).first(where: { $0 == $1 }) { throw Failure("\(place(twice.0)) is there twice") }
    for entry in task.descriptors { try restore.check(entry.id, for: place(entry.fd)) }
  }

  /// Appends the calls that put every description at its numbers, after the memory has been mapped: what was fetched
  /// for that is closed first.
  public static func restore(
    _ task: RestoredTask, _ restore: RestoreContext, _ sequence: inout ProgramSequence
  )
    throws(Failure)
  {
    sequence.makeRoom(calls: 1)
    sequence.current.call(
      __NR_close_range, 0, Argument(restore.service.first - 1), 0, for: "closing what it was made with")
    sequence.forgetFetched()
    // The table is empty now, and a file comes at the lowest free number: in ascending order most come where they belong.
    let entries = task.descriptors.sorted { $0.fd < $1.fd }
    var lowestFree: UInt32 = 0
    var fillers: [Range<UInt32>] = []
    var last: (id: UInt32, fd: UInt32)?
    var i = 0
    while i < entries.count {
      let entry = entries[i]
      if entry.fd > lowestFree, Int(entry.fd - lowestFree) <= entries.count - i {
        fillers.append(lowestFree..<entry.fd)
        fill(lowestFree..<entry.fd, restore, &sequence)
        lowestFree = entry.fd
      }
      if entry.fd == lowestFree, let made = RestoreContext.kind(of: entry.type)?.make(entries[i...], in: task, restore, &sequence), made > 0
      {
        i += made
        lowestFree += UInt32(made)
        last = nil
        continue
      }
      // One description under neighbouring numbers, such as standard input, output and error.
      if let last, last.id == entry.id, entry.fd == lowestFree {
        duplicate(last.fd, as: entry, &sequence)
        lowestFree += 1
        i += 1
        continue
      }
      let source = try restore.descriptor(entry.id, for: "task \(task.pid): descriptor \(entry.fd)")
      get(entry, from: source, isNext: entry.fd == lowestFree, restore, &sequence)
      if entry.fd == lowestFree { lowestFree += 1 }
      last = (entry.id, entry.fd)
      i += 1
    }
    for range in fillers {
      sequence.makeRoom(calls: 1)
      sequence.current.call(
        __NR_close_range, Argument(range.lowerBound), Argument(range.upperBound - 1), 0, for: "emptying descriptors from",
        UInt64(range.lowerBound))
    }
  }

  /// Takes up numbers that are to stay free.
  private static func fill(_ range: Range<UInt32>, _ restore: RestoreContext, _ sequence: inout ProgramSequence) {
    for number in range {
      sequence.makeRoom(calls: 1)
      sequence.current.call(
        __NR_fcntl, Argument(restore.service.images), 1030 /* F_DUPFD_CLOEXEC */, 0, expect: Int64(number),
        for: "filling descriptor", UInt64(number))
    }
  }

  /// Has the task give a file that it has another number, the lowest free one.
  private static func duplicate(_ fd: UInt32, as entry: FdinfoEntry, _ sequence: inout ProgramSequence) {
    sequence.makeRoom(calls: 1)
    sequence.current.call(
      __NR_fcntl, Argument(fd), Argument(entry.flags & 1 != 0 ? 1030 /* F_DUPFD_CLOEXEC */ : 0 /* F_DUPFD */), 0, expect: Int64(entry.fd),
      for: "duplicating the one before as descriptor", UInt64(entry.fd))
  }

  /// Gets a file that belongs at the lowest free number, or at a higher one. It comes with close-on-exec (man 2 pidfd_getfd).
  private static func get(
    _ entry: FdinfoEntry, from source: Int32, isNext: Bool, _ restore: RestoreContext, _ sequence: inout ProgramSequence
  ) {
    sequence.makeRoom(calls: 3)
    let detail = UInt64(entry.fd)
    let closesOnExec = entry.flags & 1 != 0
    let got = sequence.current.call(
      __NR_pidfd_getfd, Argument(restore.service.tracer), Argument(source), 0, expect: isNext ? Int64(entry.fd) : nil,
      for: "getting descriptor", detail)
    if isNext {
      if !closesOnExec {
        sequence.current.call(__NR_fcntl, .result(got), Argument(F_SETFD), 0, for: "keeping over exec descriptor", detail)
      }
      return
    }
    sequence.current.call(
      __NR_dup3, .result(got), Argument(entry.fd), Argument(closesOnExec ? O_CLOEXEC : 0), for: "placing descriptor", detail)
    sequence.current.call(__NR_close, .result(got), for: "placing descriptor", detail)
  }

  /// Appends what the process must do itself once every process has its descriptors.
  public static func complete(
    _ task: RestoredTask, _ restore: RestoreContext, _ sequence: inout ProgramSequence
  )
    throws(Failure)
  {
    guard let leader = task.threads.first else { return }
    var asynchronous: Set<UInt32> = []
    for entry in task.descriptors {
      let flags = try restore.entry(entry.id, for: "task \(task.pid)").statusFlags
      guard flags & UInt32(O_ASYNC) != 0, asynchronous.insert(entry.id).inserted else { continue }
      sequence.makeRoom(calls: 1)
      // The signal's si_fd is the number through which O_ASYNC was set (fs/fcntl.c: setfl).
      sequence.current.call(
        __NR_fcntl, Argument(entry.fd), Argument(F_SETFL), Argument(flags & ~UInt32(O_ACCMODE)),
        for: "asking for signals of descriptor", UInt64(entry.fd))
    }
    for entry in task.descriptors {
      let file = try restore.entry(entry.id, for: "task \(task.pid)")
      let kind = try restore.kind(of: file)
      repeat {
        sequence.makeRoom(calls: 64, bytes: 4096)
        try kind.complete(file, number: Int32(entry.fd), in: leader, restore, &sequence.current)
      } while restore.unfinished.contains(entry.id)
    }
  }
}

extension FileEntry {
  /// The open(2) flags of the kinds that can signal their owner.
  fileprivate var statusFlags: UInt32 {
    pipe?.flags ?? reg?.flags ?? tty?.flags ?? 0
  }
}
