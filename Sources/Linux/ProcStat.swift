/// `/proc/PID/stat` (man 5 proc_pid_stat).
///
/// As it was when it was read; whoever holds it looks at the same one.
public final class ProcStat: @unchecked Sendable {
  public private(set) var comm: [UInt8] = []
  /// R running, S sleeping, D disk sleep, Z zombie, T stopped, t tracing stop, X dead, I idle.
  public private(set) var state: UInt8 = 0
  public private(set) var ppid: Int32 = 0
  public private(set) var pgrp: Int32 = 0
  public private(set) var session: Int32 = 0
  public private(set) var ttyNumber: UInt32 = 0
  /// The foreground process group of the controlling terminal; -1 without one.
  public private(set) var foregroundGroup: Int32 = -1
  public private(set) var flags: UInt32 = 0
  private var threads: Int32 = 0
  public var threadCount: Int { Int(threads) }
  public private(set) var exitSignal: Int32 = 0
  /// Where its memory has what; relatives that have the same hold it in common.
  public var memory: Layout { layout.value }
  private var layout = Held(Layout())
  /// The wait status of a zombie: as `wait4` reports it.
  public private(set) var exitCode: Int32 = 0
  private var hashOfForgotten: UInt32?

  /// Addresses in the memory of a process.
  public struct Layout: Hashable, Sendable {
    public fileprivate(set) var startCode: UInt64 = 0
    public fileprivate(set) var endCode: UInt64 = 0
    public fileprivate(set) var startStack: UInt64 = 0
    public fileprivate(set) var startData: UInt64 = 0
    public fileprivate(set) var endData: UInt64 = 0
    public fileprivate(set) var startBrk: UInt64 = 0
    public fileprivate(set) var argStart: UInt64 = 0
    public fileprivate(set) var argEnd: UInt64 = 0
    public fileprivate(set) var envStart: UInt64 = 0
    public fileprivate(set) var envEnd: UInt64 = 0
  }

  /// PF_KTHREAD of include/linux/sched.h.
  public var isKernelThread: Bool { flags & 0x0020_0000 != 0 }

  /// `nil` if the text is not what the kernel writes.
  public init?(_ text: UnsafeRawBufferPointer) {
    // comm may hold anything, ")" and spaces too: it ends at the last ")".
    guard let open = text.firstIndex(of: UInt8(ascii: "(")),
      let close = text.lastIndex(of: UInt8(ascii: ")")), open < close
    else { return nil }
    comm = [UInt8](text[(open + 1)..<close])
    var c = ByteCursor(UnsafeRawBufferPointer(rebasing: text[(close + 1)...]))
    c.skipBlanks()
    guard let letter = c.peek else { return nil }
    state = letter
    c.skip()
    var field = 4
    while !c.atEnd {
      c.skipBlanks()
      let signed = c.peek == UInt8(ascii: "-")
      let value = signed ? UInt64(bitPattern: c.decimal()) : c.unsigned()
      let small = Int32(truncatingIfNeeded: value)
      switch field {
      case 4: ppid = small
      case 5: pgrp = small
      case 6: session = small
      case 7: ttyNumber = UInt32(truncatingIfNeeded: value)
      case 8: foregroundGroup = small
      case 9: flags = UInt32(truncatingIfNeeded: value)
      case 20: threads = small
      case 26: layout.value.startCode = value
      case 27: layout.value.endCode = value
      case 28: layout.value.startStack = value
      case 38: exitSignal = small
      case 45: layout.value.startData = value
      case 46: layout.value.endData = value
      case 47: layout.value.startBrk = value
      case 48: layout.value.argStart = value
      case 49: layout.value.argEnd = value
      case 50: layout.value.envStart = value
      case 51: layout.value.envEnd = value
      case 52: exitCode = small
      default: break
      }
      if field == 52 { break }
      field += 1
      // A field that is not a number would hold the cursor here for ever.
      if let next = c.peek, next != 0x20 { c.skip() }
    }
    guard field >= 52 else { return nil }
  }

  /// Tells most memories apart, also when it has been forgotten where what is.
  public var memoryHash: UInt32 { hashOfForgotten ?? UInt32(truncatingIfNeeded: memory.hashValue) }

  /// It is to be read once more before ``memory`` is asked for.
  public var hasForgottenMemory: Bool { hashOfForgotten != nil }

  /// It was read once more.
  public func rememberMemory(_ again: ProcStat) { (layout, hashOfForgotten) = (again.layout, nil) }

  private static let nowhere = Held(Layout())

  /// What is the same as another's, as relatives' often is, is held in memory once. Where there are very many, it is forgotten where in
  /// its memory is what, if that is not the same.
  public func hold(like other: ProcStat, ofVeryMany: Bool = false) {
    if comm == other.comm { comm = other.comm }
    if memory == other.memory {
      layout = other.layout
    } else if ofVeryMany {
      hashOfForgotten = memoryHash
      layout = Self.nowhere
    }
  }
}
