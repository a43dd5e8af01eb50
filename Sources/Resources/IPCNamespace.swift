import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// System V shared memory, semaphores and message queues, with their limits (man 7 ipc_namespaces, sysvipc).
public enum IPCNamespace: NamespaceKind {
  public static let kind = NamespaceInodes.Kind.ipc
  public static let flag = CLONE_NEWIPC

  public static func id(in ids: TaskKobjIdsEntry) -> UInt32? { ids.ipcNsId }
  public static func set(_ id: UInt32, in ids: inout TaskKobjIdsEntry) { ids.ipcNsId = id }

  public static func objections(_ namespace: DumpedNamespace, _ table: NamespaceTable) throws(Failure) -> [String] {
    try namespace.visit { () throws(Failure) in
      let queues = try MessageQueueFileSystem.names()
      return queues.isEmpty ? [] : ["\(namespace.description): a POSIX message queue, /\(queues[0]) (mqueue)"]
    }
  }

  public static func record(_ namespace: DumpedNamespace, _ dump: DumpContext) throws(Failure) {
    // Other readers know one namespace, whose segments have their content in images named by the segment.
    let isFirst = namespace.task.namespace(Self.self) === dump.namespaces?.namespaces.first { $0.kind == Self.self }
    try namespace.visit { () throws(Failure) in
      try IPCLimits.record(namespace.id, dump)
      try SystemVSharedMemory.record(namespace.id, isFirst: isFirst, dump)
      try SystemVMessageQueue.record(namespace.id, dump)
      try SystemVSemaphores.record(namespace.id, dump)
    }
  }

  public static func check(_ id: UInt32, _ restore: RestoreContext) throws(Failure) {
    _ = try IPCLimits.read(id, restore)
    _ = try SystemVSharedMemory.read(id, restore)
    _ = try SystemVMessageQueue.read(id, restore)
    _ = try SystemVSemaphores.read(id, restore)
  }

  public static func make(_ id: UInt32, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    try Visit.makeNew(Self.self) { () throws(Failure) in
      try IPCLimits.set(try IPCLimits.read(id, restore))
      for segment in try SystemVSharedMemory.read(id, restore) { try SystemVSharedMemory.make(segment, restore) }
      for queue in try SystemVMessageQueue.read(id, restore) { try SystemVMessageQueue.make(queue) }
      for set in try SystemVSemaphores.read(id, restore) { try SystemVSemaphores.make(set) }
    }
  }

  public static func finish(_ id: UInt32, _ restore: RestoreContext) throws(Failure) {
    try Visit.run(restore.namespaces.descriptor(of: Self.self, id), flag) { () throws(Failure) in
      for segment in try SystemVSharedMemory.read(id, restore) { try SystemVSharedMemory.finish(segment) }
      try IPCLimits.finish(try IPCLimits.read(id, restore))
    }
  }
}

/// The limits of an IPC namespace: files below /proc/sys (Documentation/admin-guide/sysctl/kernel.rst).
private enum IPCLimits {
  typealias Limit = (file: String, field: WritableKeyPath<IpcVarEntry, UInt32>)
  typealias LargeLimit = (file: String, field: WritableKeyPath<IpcVarEntry, UInt64>)

  private static var limits: [Limit] {
    [
      ("kernel/msgmax", \.msgCtlmax), ("kernel/msgmnb", \.msgCtlmnb), ("kernel/msgmni", \.msgCtlmni),
      ("kernel/shmmni", \.shmCtlmni), ("fs/mqueue/queues_max", \.mqQueuesMax), ("fs/mqueue/msg_max", \.mqMsgMax),
      ("fs/mqueue/msgsize_max", \.mqMsgsizeMax),
    ]
  }
  private static var largeLimits: [LargeLimit] {
    [("kernel/shmmax", \.shmCtlmax), ("kernel/shmall", \.shmCtlall)]
  }

  static func record(_ id: UInt32, _ dump: DumpContext) throws(Failure) {
    var entry = IpcVarEntry()
    entry.semCtls = try Sysctl.numbers("kernel/sem").map { UInt32(clamping: $0) }
    for (file, field) in limits { entry[keyPath: field] = UInt32(clamping: try Sysctl.number(file)) }
    for (file, field) in largeLimits { entry[keyPath: field] = try Sysctl.number(file) }
    entry.autoMsgmni = UInt32(clamping: try Sysctl.number("kernel/auto_msgmni"))
    entry.shmRmidForced = UInt32(clamping: try Sysctl.number("kernel/shm_rmid_forced"))
    entry.mqMsgDefault = UInt32(clamping: try Sysctl.number("fs/mqueue/msg_default"))
    entry.mqMsgsizeDefault = UInt32(clamping: try Sysctl.number("fs/mqueue/msgsize_default"))
    try dump.write(entry, to: .ipcVar(id))
  }

  static func read(_ id: UInt32, _ restore: RestoreContext) throws(Failure) -> IpcVarEntry {
    try asFailure { () throws(ImageError) in try restore.directory.read(IpcVarEntry.self, from: .ipcVar(id)) }
  }

  static func set(_ entry: IpcVarEntry) throws(Failure) {
    if !entry.semCtls.isEmpty { try Sysctl.set("kernel/sem", entry.semCtls.map(UInt64.init)) }
    for (file, field) in limits { try Sysctl.set(file, [UInt64(entry[keyPath: field])]) }
    for (file, field) in largeLimits { try Sysctl.set(file, [entry[keyPath: field]]) }
    if let count = entry.mqMsgDefault { try Sysctl.set("fs/mqueue/msg_default", [UInt64(count)]) }
    if let size = entry.mqMsgsizeDefault { try Sysctl.set("fs/mqueue/msgsize_default", [UInt64(size)]) }
  }

  /// With it set, a segment would go as soon as the tracer has filled and left it.
  static func finish(_ entry: IpcVarEntry) throws(Failure) {
    try Sysctl.set("kernel/shm_rmid_forced", [UInt64(entry.shmRmidForced)])
  }
}

/// Numbers in files below /proc/sys.
enum Sysctl {
  static func numbers(_ file: String) throws(Failure) -> [UInt64] {
    let buffer = ReadBuffer()
    return try about("/proc/sys/\(file)") { () throws(Errno) in
      let descriptor = try Descriptor.open("/proc/sys/\(file)")
      return try withExtendedLifetime(buffer) { () throws(Errno) in
        var numbers: [UInt64] = []
        var text = ByteCursor(try buffer.readAll(descriptor.rawValue))
        text.skipBlanks()
        while let c = text.peek, c >= 0x30, c <= 0x39 {
          numbers.append(text.unsigned())
          text.skipBlanks()
        }
        return numbers
      }
    }
  }

  static func number(_ file: String) throws(Failure) -> UInt64 { try numbers(file).first ?? 0 }

  /// Writes numbers, unless they are there already.
  static func set(_ file: String, _ numbers: [UInt64]) throws(Failure) {
    if try self.numbers(file) == numbers { return }
    try write(file, numbers.map(String.init).joined(separator: " "))
  }

  static func write(_ file: String, _ text: String) throws(Failure) {
    try about("writing \(text) to /proc/sys/\(file)") { () throws(Errno) in
      let descriptor = try Descriptor.open("/proc/sys/\(file)", O_WRONLY)
      try Array(text.utf8).withUnsafeBufferPointer { text throws(Errno) in
        _ = try syscall(__NR_write, Int(descriptor.rawValue), Int(bitPattern: text.baseAddress), text.count)
      }
    }
  }
}
