import Checkpoint
import Glibc
import Linux
import SystemPackage

/// The file descriptions of a tree, each once.
public final class FileTable {
  struct Key: Hashable {
    var device: UInt64
    var inode: UInt64
    var flags: UInt32
    var position: UInt64
    var link: [UInt8]
    var mount: Int32 = -1
  }

  /// A description that is to be compared with others.
  final class Member {
    fileprivate let place: (pid: Int32, number: Int32)
    fileprivate let duplicate: KeptDuplicate?
    /// Its number in `files.img`, once it has been recorded.
    fileprivate var id: UInt32?
    /// The one that it turned out to be.
    fileprivate var same: Member?

    fileprivate init(_ file: DumpedFile) { (place, duplicate) = (file.place, file.duplicated) }

    /// Negative, zero or positive, in an order that the kernel keeps to while all are open (man 2 kcmp).
    fileprivate func compare(_ other: Member) throws(Failure) -> Int {
      try about("task \(place.pid): descriptor \(place.number): kcmp") { () throws(Errno) in
        try kcmp(place.pid, other.place.pid, .file, Int(place.number), Int(other.place.number))
      }
    }
  }

  public private(set) var entries: [FileEntry] = []
  /// Descriptions that look alike, in kcmp's order.
  private var alike: [Key: [Member]] = [:]
  /// Descriptions by their addresses in the kernel, where these are known.
  private var addressed: [UInt64: Member] = [:]
  /// Those that are not in ``alike`` yet, which is empty as long as the address of every description is known.
  private var unsorted: [(key: Key, member: Member)] = []
  private var allAreAddressed = true
  private var named: [Key: UInt32] = [:]
  private var nextID: UInt32 = 1

  public init() {}

  public func nextNumber() -> UInt32 {
    defer { nextID += 1 }
    return nextID
  }

  public func append(_ entry: FileEntry) { entries.append(entry) }

  /// The ID of a description that a descriptor names; recorded if it is seen for the first time.
  func id(of description: DumpedDescription, _ dump: DumpContext) throws(Failure) -> UInt32 {
    let member: Member
    if let known = description.member { member = known } else { member = try find(description.file) }
    description.member = member
    if let id = member.id { return id }
    let id = nextNumber()
    append(try record(description.file, description.kind, id, dump))
    member.id = id
    return id
  }

  /// A new member, or the one that the file is.
  private func find(_ file: DumpedFile) throws(Failure) -> Member {
    let key = Self.key(of: file)
    guard let address = file.address else {
      try sortAddressed()
      return try Self.put(Member(file), into: &alike[key, default: []])
    }
    if let known = addressed[address] { return known }
    var member = Member(file)
    if allAreAddressed {
      unsorted.append((key, member))
    } else {
      member = try Self.put(member, into: &alike[key, default: []])
    }
    addressed[address] = member
    return member
  }

  /// From now on there are descriptions with which those with an address can only be compared as any others.
  private func sortAddressed() throws(Failure) {
    allAreAddressed = false
    for (key, member) in unsorted { _ = try Self.put(member, into: &alike[key, default: []]) }
    unsorted = []
  }

  /// What two descriptions differ in are two.
  private static func key(of file: DumpedFile) -> Key {
    Key(
      device: UInt64(file.stat.st_dev), inode: UInt64(file.stat.st_ino), flags: file.info.flags & descriptionFlags,
      position: file.info.position, link: file.isAnonymous ? [] : file.link)
  }

  /// Puts a member into its place, by a search that takes a logarithm of calls, or returns the one that is there.
  private static func put(_ member: Member, into members: inout [Member]) throws(Failure) -> Member {
    var (low, high) = (0, members.count)
    while low < high {
      let middle = (low + high) / 2
      let order = try member.compare(members[middle])
      if order == 0 { return members[middle] }
      if order < 0 { high = middle } else { low = middle + 1 }
    }
    members.insert(member, at: low)
    return member
  }

  /// Lets go of the tracer's duplicates: nothing is compared any more.
  public func forgetDuplicates() { (alike, addressed, unsorted) = ([:], [:], []) }

  private func record(_ file: DumpedFile, _ kind: any FileKind.Type, _ id: UInt32, _ dump: DumpContext) throws(Failure)
    -> FileEntry
  {
    var entry = try kind.record(file, id: id, dump)
    if !dump.imageNumbers.isEmpty { entry.mapOwner { dump.imageNumber(of: $0) } }
    return entry
  }

  /// The ID of a file without a descriptor: the same for every task that has it at the same path with the same flags.
  public func id(ofNamed file: DumpedFile, kind: any FileKind.Type, _ dump: DumpContext) throws(Failure)
    -> UInt32
  {
    let key = Key(
      device: UInt64(file.stat.st_dev), inode: UInt64(file.stat.st_ino), flags: file.info.flags, position: 0,
      link: file.link, mount: file.info.mountID)
    if let id = named[key] { return id }
    let id = nextNumber()
    append(try record(file, kind, id, dump))
    named[key] = id
    return id
  }
}

// MARK: Many at a time

extension FileTable {
  /// So many are worth the companion's while.
  private static let many = 128

  /// Finds out which of a task's descriptions are the same before they are asked for one after the other: of many that look alike the
  /// companion puts one half in order.
  func arrange(_ descriptors: [DumpedDescriptor], _ companion: Companion) throws(Failure) {
    guard descriptors.count >= Self.many, companion.hasTime else { return }
    var groups: [Key: [DumpedDescription]] = [:]
    for descriptor in descriptors where descriptor.file.member == nil && descriptor.file.file.address == nil {
      groups[Self.key(of: descriptor.file.file), default: []].append(descriptor.file)
    }
    guard groups.values.contains(where: { $0.count >= Self.many }) else { return }
    try sortAddressed()
    for (key, group) in groups where group.count >= Self.many && alike[key] == nil {
      alike[key] = try Self.sort(group, companion)
      for description in group { description.member = description.member?.same ?? description.member }
    }
  }

  private static func sort(_ group: [DumpedDescription], _ companion: Companion) throws(Failure) -> [Member] {
    var (mine, theirs): ([Member], [Member]) = ([], [])
    let half = group.count / 2
    try companion.share(
      { () throws(Failure) in try sort(group[..<half], into: &mine) },
      { () throws(Failure) in try sort(group[half...], into: &theirs) })
    return try merge(mine, theirs)
  }

  private static func sort(_ group: ArraySlice<DumpedDescription>, into members: inout [Member]) throws(Failure) {
    members.reserveCapacity(group.count)
    for description in group { description.member = try put(Member(description.file), into: &members) }
  }

  private static func merge(_ first: [Member], _ second: [Member]) throws(Failure) -> [Member] {
    var merged: [Member] = []
    merged.reserveCapacity(first.count + second.count)
    var rest = second[...]
    for member in first {
      while let other = rest.first {
        let order = try member.compare(other)
        if order < 0 { break }
        rest.removeFirst()
        if order == 0 {
          other.same = member
          break
        }
        merged.append(other)
      }
      merged.append(member)
    }
    return merged + rest
  }
}
