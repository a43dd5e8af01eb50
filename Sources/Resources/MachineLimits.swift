import Checkpoint
import Glibc
import Linux
import SystemPackage

/// Limits of the whole machine that a tree may be above, by a privilege that somebody had when it was made.
enum MachineLimits {
  /// Bytes that a pipe can be given without CAP_SYS_RESOURCE (man 7 pipe).
  static var pipeSize: UInt32? { number(in: pipeSizeFile).map { UInt32(clamping: $0) } }
  static let pipeSizeFile = "/proc/sys/fs/pipe-max-size"

  /// Below this address only CAP_SYS_RAWIO maps anything (security/commoncap.c: cap_mmap_addr).
  private static var lowestAddress: UInt64? { number(in: "/proc/sys/vm/mmap_min_addr") }

  /// Replaces the size of a pipe that is larger than allowed by the largest one, and names it.
  static func concede(_ content: inout (PipeDataEntry, [UInt8])?, of owner: String, _ restore: RestoreContext) {
    guard let (data, bytes) = content, let size = data.size, size > 65536, !restore.privileges.machine.contains(.sysResource),
      let limit = pipeSize,
      size > limit
    else { return }
    // Each packet has a page of its own (fs/pipe.c: anon_pipe_write).
    let needed = max(bytes.count, data.packets.count * pageSize)
    restore.concessions.add(
      "\(size) bytes of room, above \(pipeSizeFile) (\(limit)): needs CAP_SYS_RESOURCE", of: owner,
      isVital: needed > Int(limit))
    content?.0.size = limit
  }

  /// Names a task's lowest mapping, if it needs a privilege. Nothing can be put in its place.
  static func concede(_ task: RestoredTask, _ restore: RestoreContext) {
    guard let lowest = task.memory.vmas.first?.start, lowest < 1 << 20, !restore.privileges.machine.contains(.sysRawIO),
      let limit = lowestAddress, lowest < limit
    else { return }
    restore.concessions.add(
      "memory at 0x\(String(lowest, radix: 16)), below vm.mmap_min_addr (\(limit)): needs CAP_SYS_RAWIO",
      of: "mm-\(task.pid).img: \(task.description)",
      isVital: true)
  }

  private static func number(in path: String) -> UInt64? {
    guard let file = try? Descriptor.open(path) else { return nil }
    let buffer = ReadBuffer()
    guard let text = try? buffer.readAll(file.rawValue) else { return nil }
    var cursor = ByteCursor(text)
    return withExtendedLifetime(buffer) { cursor.unsigned() }
  }
}
