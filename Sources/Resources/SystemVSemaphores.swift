import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// System V semaphore sets (man 2 semget). Nothing tells which task would undo what (SEM_UNDO).
enum SystemVSemaphores {
  struct Set {
    var entry = IpcSemEntry()
    var values: [UInt16] = []
  }

  static func record(_ namespace: UInt32, _ dump: DumpContext) throws(Failure) {
    let sets = try about("listing semaphores") { () throws(Errno) in
      try SystemVObject.identifiers(__NR_semctl, info: 19 /* SEM_INFO */, stat: 18 /* SEM_STAT */, semid_ds())
    }
    var image = try asFailure { () throws(ImageError) in try ImageWriter(.ipcSem(namespace), in: dump.directory) }
    for (id, status) in sets {
      var entry = IpcSemEntry()
      entry.desc = IpcDescEntry(status.sem_perm, id: id)
      entry.nsems = UInt32(status.sem_nsems)
      var values = [UInt16](repeating: 0, count: Int(entry.nsems) + padding(Int(entry.nsems)))
      try about("semaphore set \(id): semctl") { () throws(Errno) in
        try values.withUnsafeMutableBufferPointer { values throws(Errno) in
          _ = try SystemVObject.control(__NR_semctl, id, 13 /* GETALL */, Int(bitPattern: values.baseAddress))
        }
      }
      try image.write(entry)
      try image.write(raw: values.withUnsafeBytes { Array($0) })
    }
    try image.end()
  }

  /// Values that fill up the last 8 bytes.
  private static func padding(_ count: Int) -> Int { (4 - count % 4) % 4 }

  static func read(_ namespace: UInt32, _ restore: RestoreContext) throws(Failure) -> [Set] {
    // Other writers make no image of nothing.
    guard restore.directory.contains(.ipcSem(namespace)) else { return [] }
    var image = try asFailure { () throws(ImageError) in try ImageReader(.ipcSem(namespace), in: restore.directory) }
    var sets: [Set] = []
    while let entry = try image.read(IpcSemEntry.self) {
      let count = Int(entry.nsems)
      let bytes = try image.bytes((count + padding(count)) * 2)
      let values = bytes.withUnsafeBytes { bytes in
        (0..<count).map { bytes.loadUnaligned(fromByteOffset: $0 * 2, as: UInt16.self) }
      }
      sets.append(Set(entry: entry, values: values))
    }
    return sets
  }

  static func make(_ set: Set) throws(Failure) {
    let desc = set.entry.desc
    try about("semaphore set \(desc.id)") { () throws(Failure) in
      try SystemVObject.make("sem", desc) { () throws(Errno) in
        try syscall(__NR_semget, Int(Int32(bitPattern: desc.key)), set.values.count, desc.makingFlags)
      }
      try about("semctl") { () throws(Errno) in
        try set.values.withUnsafeBufferPointer { values throws(Errno) in
          _ = try SystemVObject.control(__NR_semctl, Int(desc.id), 17 /* SETALL */, Int(bitPattern: values.baseAddress))
        }
        var status = semid_ds()
        status.sem_perm = desc.settable
        try SystemVObject.control(__NR_semctl, Int(desc.id), SystemVObject.set, status)
      }
    }
  }
}
