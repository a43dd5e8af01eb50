import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// System V message queues with the messages in them (man 2 msgget, msgop).
enum SystemVMessageQueue {
  struct Queue {
    var entry = IpcMsgEntry()
    var messages: [(type: UInt64, text: [UInt8])] = []
  }

  static func record(_ namespace: UInt32, _ dump: DumpContext) throws(Failure) {
    let queues = try about("listing message queues") { () throws(Errno) in
      try SystemVObject.identifiers(__NR_msgctl, info: 12 /* MSG_INFO */, stat: 11 /* MSG_STAT */, msqid_ds())
    }
    var image = try asFailure { () throws(ImageError) in try ImageWriter(.ipcMsg(namespace), in: dump.directory) }
    for (id, status) in queues {
      let messages = try about("message queue \(id): msgrcv") { () throws(Errno) in
        try copyMessages(id, count: Int(status.msg_qnum), bytes: Int(status.__msg_cbytes))
      }
      var entry = IpcMsgEntry()
      entry.desc = IpcDescEntry(status.msg_perm, id: id)
      entry.qbytes = UInt32(clamping: status.msg_qbytes)
      entry.qnum = UInt32(messages.count)
      try image.write(entry)
      for message in messages {
        var head = IpcMsg()
        head.mtype = message.type
        head.msize = UInt32(message.text.count)
        try image.write(head)
        try image.write(raw: message.text + [UInt8](repeating: 0, count: padding(message.text.count)))
      }
    }
    try image.end()
  }

  private static func padding(_ count: Int) -> Int { (8 - count % 8) % 8 }

  /// Reads the messages and leaves them where they are (MSG_COPY).
  private static func copyMessages(_ id: Int, count: Int, bytes: Int) throws(Errno) -> [(type: UInt64, text: [UInt8])] {
    var messages: [(type: UInt64, text: [UInt8])] = []
    // struct msgbuf: a long for the type, and the text.
    var buffer = [UInt8](repeating: 0, count: 8 + bytes)
    for index in 0..<count {
      let size = try buffer.withUnsafeMutableBufferPointer { buffer throws(Errno) in
        try syscall(
          __NR_msgrcv, id, Int(bitPattern: buffer.baseAddress), bytes, index, 0o44000 /* MSG_COPY | IPC_NOWAIT */)
      }
      let type = buffer.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) }
      messages.append((type, Array(buffer[8..<(8 + size)])))
    }
    return messages
  }

  static func read(_ namespace: UInt32, _ restore: RestoreContext) throws(Failure) -> [Queue] {
    // Other writers make no image of nothing.
    guard restore.directory.contains(.ipcMsg(namespace)) else { return [] }
    var image = try asFailure { () throws(ImageError) in try ImageReader(.ipcMsg(namespace), in: restore.directory) }
    var queues: [Queue] = []
    while let entry = try image.read(IpcMsgEntry.self) {
      var queue = Queue(entry: entry)
      for _ in 0..<entry.qnum {
        guard let head = try image.read(IpcMsg.self) else {
          throw Failure("ipcns-msg-\(namespace).img: queue \(entry.desc.id) has less than \(entry.qnum) messages")
        }
        let text = try image.bytes(Int(head.msize))
        _ = try image.bytes(padding(text.count))
        queue.messages.append((head.mtype, text))
      }
      queues.append(queue)
    }
    return queues
  }

  static func make(_ queue: Queue) throws(Failure) {
    let desc = queue.entry.desc
    try about("message queue \(desc.id)") { () throws(Failure) in
      try SystemVObject.make("msg", desc) { () throws(Errno) in
        try syscall(__NR_msgget, Int(Int32(bitPattern: desc.key)), desc.makingFlags)
      }
      let id = Int(desc.id)
      try about("msgctl", advice: "A limit above kernel.msgmnb needs CAP_SYS_RESOURCE.") { () throws(Errno) in
        var status = msqid_ds()
        status.msg_perm = desc.settable
        status.msg_qbytes = .init(queue.entry.qbytes)
        try SystemVObject.control(__NR_msgctl, id, SystemVObject.set, status)
      }
      for (type, text) in queue.messages {
        let message = withUnsafeBytes(of: type) { Array($0) } + text
        try about("msgsnd") { () throws(Errno) in
          try message.withUnsafeBufferPointer { message throws(Errno) in
            _ = try syscall(__NR_msgsnd, id, Int(bitPattern: message.baseAddress), text.count, 0o4000 /* IPC_NOWAIT */)
          }
        }
      }
    }
  }
}
