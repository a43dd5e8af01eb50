import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// The terminal that a tree was started from (man 4 tty, pts), under --shell-job only: it is not of the tree, and the
/// restored tree gets the one that the restore is run from.
public enum Terminal: FileKind {
  public static let type = FdTypes.tty

  private static let getDevice = 0x8004_5432  // TIOCGDEV
  private static let getExclusive = 0x8004_5440  // TIOCGEXCL
  private static let getModes = 0x5401  // TCGETS
  private static let setModes = 0x5402  // TCSETS
  private static let getLockedModes = 0x5456  // TIOCGLCKTRMIOS

  public static func matches(_ file: DumpedFile) -> Bool {
    guard file.format == S_IFCHR, file.info.flags & UInt32(O_PATH) == 0 else { return false }
    return ttyType(UInt64(file.stat.st_rdev)) != nil || isMaster(file)
  }

  public static func objection(_ file: DumpedFile, _ options: DumpOptions) -> String? {
    if isMaster(file) { return "a pty master (pty)" }
    if file.link.suffix(10).elementsEqual(" (deleted)".utf8) { return "a terminal that is gone (tty)" }
    return options.shellJob ? nil : "a terminal (shell-job)"
  }

  /// /dev/ptmx (Documentation/admin-guide/devices.txt)
  private static func isMaster(_ file: DumpedFile) -> Bool { UInt64(file.stat.st_rdev) == 5 << 8 | 2 }

  /// What stands behind a device; `nil` if it is no terminal.
  private static func ttyType(_ device: UInt64) -> TtyType? {
    switch deviceNumber(device) {
    case (136...143, _): .pty
    case (5, 0): .ctty
    case (5, 1): .console
    case (4, 0..<64): .vt
    case (4, _): .serial
    default: nil
    }
  }

  public static func record(_ file: DumpedFile, id: UInt32, _ dump: DumpContext) throws(Failure) -> FileEntry {
    guard dump.options.shellJob else {
      throw Failure(
        "\(file.description): a terminal (shell-job)",
        advice:
          "If the tree was started from a shell and shall get the terminal of the restore, add --shell-job.")
    }
    var terminal = TtyFileEntry()
    terminal.id = id
    terminal.flags = file.info.flags & descriptionFlags
    let path = dump.files.nextNumber()
    dump.files.append(try RegularFile.record(file, id: path, dump))
    terminal.regfId = path
    try about(file.description) { () throws(Failure) in
      let duplicate = try file.duplicate()
      terminal.fown = try about("reading its owner") { () throws(Errno) in
        try FownEntry(of: duplicate.rawValue)
      }
      terminal.ttyInfoId = try info(of: file, duplicate.rawValue, dump)
    }
    var entry = FileEntry(type, id)
    entry.tty = terminal
    return entry
  }

  /// Records the terminal itself, once; its number in `tty-info.img`.
  private static func info(of file: DumpedFile, _ fd: Int32, _ dump: DumpContext) throws(Failure) -> UInt32 {
    // Behind /dev/tty this is the device that it stands for.
    let device: UInt32 = try about("TIOCGDEV") { () throws(Errno) in try get(fd, getDevice, UInt32(0)) }
    let type = ttyType(UInt64(file.stat.st_rdev)) ?? .unknown
    if let known = dump.terminals.first(where: { $0.rdev == device && $0.type == type }) { return known.id }
    var info = TtyInfoEntry()
    info.id = dump.number("tty")
    info.type = type
    info.rdev = device
    info.dev = UInt32(truncatingIfNeeded: file.stat.st_dev)
    info.uid = file.stat.st_uid
    info.gid = file.stat.st_gid
    let (major, minor) = deviceNumber(UInt64(device))
    if (136...143).contains(major) {
      var pty = TtyPtyEntry()
      pty.index = (major - 136) * 256 + minor
      info.pty = pty
    }
    try about("reading its modes") { () throws(Errno) in
      info.exclusive = try get(fd, getExclusive, Int32(0)) != 0
      info.termios = TermiosEntry(try get(fd, getModes, KernelModes()))
      info.termiosLocked = TermiosEntry(try get(fd, getLockedModes, KernelModes()))
      let size = try get(fd, Int(TIOCGWINSZ), winsize())
      var window = WinsizeEntry()
      (window.wsRow, window.wsCol) = (UInt32(size.ws_row), UInt32(size.ws_col))
      (window.wsXpixel, window.wsYpixel) = (UInt32(size.ws_xpixel), UInt32(size.ws_ypixel))
      info.winsize = window
    }
    let stat = try about("reading whose terminal it is") { () throws(Errno) -> ProcStat? in
      let buffer = ReadBuffer()
      return try withExtendedLifetime(buffer) { () throws(Errno) in
        ProcStat(try ProcDirectory(pid: file.pid).read("stat", buffer))
      }
    }
    if let stat, stat.ttyNumber == device {
      info.sid = UInt32(stat.session)
      info.pgrp = UInt32(max(stat.foregroundGroup, 0))
    }
    dump.terminals.append(info)
    return info.id
  }

  private static func get<T: BitwiseCopyable>(_ fd: Int32, _ request: Int, _ value: T) throws(Errno) -> T {
    var value = value
    try withUnsafeMutablePointer(to: &value) { pointer throws(Errno) in
      _ = try syscall(__NR_ioctl, Int(fd), request, Int(bitPattern: pointer))
    }
    return value
  }

  public static func check(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) {
    let terminal = try entry.part(entry.tty)
    guard restore.options.shellJob else {
      throw Failure(
        "file \(entry.id) is the terminal that the tree was started from",
        advice: "Run the restore from a terminal, with --shell-job.")
    }
    guard restore.terminals[terminal.ttyInfoId] != nil else {
      throw Failure("files.img: terminal \(terminal.ttyInfoId) of file \(entry.id) is not in tty-info.img")
    }
    _ = try ownTerminal(restore)
  }

  /// A descriptor of the terminal that this program is run from. It stays the context's.
  private static func ownTerminal(_ restore: RestoreContext) throws(Failure) -> Int32 {
    if let known = restore.kept("terminal") { return known }
    for standard: Int32 in 0...2 where isatty(standard) == 1 {
      restore.keep(
        try about("duplicating the terminal") { () throws(Errno) in
          Descriptor(Int32(try syscall(__NR_fcntl, Int(standard), 1030 /* F_DUPFD_CLOEXEC */, 3)))
        }, as: "terminal")
      return restore.kept("terminal") ?? -1
    }
    restore.keep(
      try about(
        "opening /dev/tty",
        advice: "With --shell-job the tree gets the terminal of the restore: run it from one."
      ) { () throws(Errno) in try Descriptor.open("/dev/tty", O_RDWR | O_NOCTTY) },
      as: "terminal")
    return restore.kept("terminal") ?? -1
  }

  public static func open(_ entry: FileEntry, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    let terminal = try entry.part(entry.tty)
    let own = try ownTerminal(restore)
    let isControlling = restore.terminals[terminal.ttyInfoId]?.type == .ctty
    let path = isControlling ? "/dev/tty" : "/proc/self/fd/\(own)"
    return try about("terminal \(terminal.ttyInfoId): opening \(path)") { () throws(Errno) in
      // Without O_NONBLOCK a serial line would wait for its carrier.
      let flags = Int32(bitPattern: terminal.flags) & ~(O_CREAT | O_EXCL | O_TRUNC) | O_NOCTTY | O_NONBLOCK
      let descriptor = try Descriptor.open(path, flags)
      try terminal.fown.restore(to: descriptor.rawValue, flags: terminal.flags)
      return descriptor
    }
  }

  /// Sets what the tree had set, now that nothing can fail any more that would leave the user with it: the modes, the size of the
  /// window, and which of its groups is in the foreground. In the background that would stop this program (man 4
  /// tty_ioctl, job control), and be no right of the tree's.
  public static func finish(_ restore: RestoreContext) throws(Failure) {
    guard let own = restore.kept("terminal"), tcgetpgrp(own) == getpgrp() else { return }
    let terminals = restore.terminals.values.filter { $0.termios != nil }
    guard let recorded = terminals.min(by: { $0.id < $1.id }), let modes = recorded.termios else { return }
    try about("setting the modes of the terminal") { () throws(Errno) in
      try set(own, setModes, KernelModes(modes))
    }
    if let window = recorded.winsize {
      try about("setting the size of the terminal") { () throws(Errno) in
        try set(
          own, Int(TIOCSWINSZ),
          winsize(
            ws_row: UInt16(truncatingIfNeeded: window.wsRow), ws_col: UInt16(truncatingIfNeeded: window.wsCol),
            ws_xpixel: UInt16(truncatingIfNeeded: window.wsXpixel), ws_ypixel: UInt16(truncatingIfNeeded: window.wsYpixel)))
      }
    }
    // A group that was led from outside of the tree is this process's own by now, and is there already.
    let group = restore.tasks[recorded.pgrp]?.tracerPID ?? Int32(truncatingIfNeeded: recorded.pgrp)
    guard group > 0, group != getpgrp(), restore.tasks.values.contains(where: { getpgid($0.tracerPID) == group }) else { return }
    try about("giving the terminal to process group \(group)") { () throws(Errno) in
      try set(own, Int(TIOCSPGRP), group)
      restore.gaveForeground = true
    }
  }

  /// Makes this process's group the foreground of its terminal again, when the tree that had it has ended.
  public static func takeForeground() {
    guard let terminal = try? Descriptor.open("/dev/tty", O_RDWR | O_NOCTTY) else { return }
    // Who is in the background is stopped for that, unless it blocks the signal (man 3 tcsetpgrp).
    var (signals, before) = (sigset_t(), sigset_t())
    sigemptyset(&signals)
    sigaddset(&signals, SIGTTOU)
    sigprocmask(SIG_BLOCK, &signals, &before)
    tcsetpgrp(terminal.rawValue, getpgrp())
    sigprocmask(SIG_SETMASK, &before, nil)
  }

  private static func set<T: BitwiseCopyable>(_ fd: Int32, _ request: Int, _ value: T) throws(Errno) {
    _ = try get(fd, request, value)
  }
}

/// struct termios of asm-generic/termbits.h
private struct KernelModes: BitwiseCopyable {
  var input: UInt32 = 0
  var output: UInt32 = 0
  var control: UInt32 = 0
  var local: UInt32 = 0
  var line: UInt8 = 0
  var characters = InlineArray<19, UInt8>(repeating: 0)
}

extension KernelModes {
  fileprivate init(_ entry: TermiosEntry) {
    self.init()
    (input, output, control, local) = (entry.cIflag, entry.cOflag, entry.cCflag, entry.cLflag)
    line = UInt8(truncatingIfNeeded: entry.cLine)
    for (i, character) in entry.cCc.prefix(19).enumerated() {
      characters[i] = UInt8(truncatingIfNeeded: character)
    }
  }
}

extension TermiosEntry {
  /// Both speeds are the code in c_cflag (CBAUD, CBAUDEX), as libc shows them.
  fileprivate init(_ modes: KernelModes) {
    self.init()
    (cIflag, cOflag, cCflag, cLflag) = (modes.input, modes.output, modes.control, modes.local)
    cLine = UInt32(modes.line)
    cIspeed = modes.control & 0x100f
    cOspeed = cIspeed
    cCc = modes.characters.indices.map { UInt32(modes.characters[$0]) }
  }
}
