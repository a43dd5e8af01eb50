import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// The names of the machine (man 7 uts_namespaces).
public enum UTSNamespace: NamespaceKind {
  public static let kind = NamespaceInodes.Kind.uts
  public static let flag = CLONE_NEWUTS

  public static func id(in ids: TaskKobjIdsEntry) -> UInt32? { ids.utsNsId }
  public static func set(_ id: UInt32, in ids: inout TaskKobjIdsEntry) { ids.utsNsId = id }

  public static func record(_ namespace: DumpedNamespace, _ dump: DumpContext) throws(Failure) {
    let entry = try namespace.visit { () throws(Failure) in
      try about("uname") { () throws(Errno) in try names() }
    }
    try dump.write(entry, to: .utsns(namespace.id))
  }

  /// struct new_utsname of linux/utsname.h: six names of 65 bytes; the second is the node's, the last the domain's.
  private static func names() throws(Errno) -> UtsnsEntry {
    let length = 65
    var names = [UInt8](repeating: 0, count: 6 * length)
    try names.withUnsafeMutableBufferPointer { names throws(Errno) in
      _ = try syscall(__NR_uname, Int(bitPattern: names.baseAddress))
    }
    var entry = UtsnsEntry()
    entry.nodename = Array(names[length..<(2 * length)].prefix { $0 != 0 })
    entry.domainname = Array(names[(5 * length)...].prefix { $0 != 0 })
    return entry
  }

  public static func check(_ id: UInt32, _ restore: RestoreContext) throws(Failure) {
    let entry = try read(id, restore)
    guard entry.nodename.count <= 64, entry.domainname.count <= 64 else {
      throw Failure("utsns-\(id).img: a name is longer than 64 bytes")
    }
  }

  private static func read(_ id: UInt32, _ restore: RestoreContext) throws(Failure) -> UtsnsEntry {
    try asFailure { () throws(ImageError) in try restore.directory.read(UtsnsEntry.self, from: .utsns(id)) }
  }

  public static func make(_ id: UInt32, _ restore: RestoreContext) throws(Failure) -> Descriptor {
    let entry = try read(id, restore)
    return try Visit.makeNew(Self.self) { () throws(Failure) in
      try set(entry.nodename, __NR_sethostname, "sethostname")
      try set(entry.domainname, __NR_setdomainname, "setdomainname")
    }
  }

  private static func set(_ name: [UInt8], _ call: Int32, _ words: String) throws(Failure) {
    try about(words) { () throws(Errno) in
      try name.withUnsafeBufferPointer { name throws(Errno) in
        _ = try syscall(call, Int(bitPattern: name.baseAddress), name.count)
      }
    }
  }
}
