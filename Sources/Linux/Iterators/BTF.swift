import CLinux
import Glibc
import SystemPackage

/// The types of the running kernel, as it shows them itself (Documentation/bpf/btf.rst). Where a member lies in its structure differs
/// from one kernel to the next.
struct BTF {
  /// A kind of type (include/uapi/linux/btf.h).
  enum Kind: UInt32 {
    case integer = 1
    case pointer, array, structure, union, enumeration, forward, typedef, volatile, const, restrict, function, prototype
    case variable, section, float, declarationTag, typeTag, enumeration64
  }

  /// How a value is reached from the address of a structure: pointers to be followed one after the other, by their offsets, and then the
  /// value's own. All in bytes.
  struct Access: Equatable {
    var pointers: [Int] = []
    var offset = 0
    var size = 0
  }

  /// Mapped, or read where that is not offered; never written, and there until the process ends.
  private let types: UnsafeRawBufferPointer
  private let names: UnsafeRawBufferPointer
  /// Where every sixteenth type begins, of those that have been gone through.
  private var places: [UInt32] = []
  /// The next one, and its number: they have numbers by their order, from 1 on.
  private var next = (place: 0, id: 1)
  private var found: [Named: UInt32] = [:]

  /// A structure or a function; there can be one of each with the same name.
  struct Named: Hashable {
    var kind: Kind
    var name: String
  }

  /// Fails where the kernel has none (CONFIG_DEBUG_INFO_BTF). Only what is `wanted` can be asked for by name.
  init(finding wanted: [Named]) throws(Errno) {
    let bytes = try Self.contents(of: "/sys/kernel/btf/vmlinux")
    // struct btf_header: magic, version, flags; hdr_len, type_off, type_len, str_off, str_len
    guard bytes.count >= 24, bytes.loadUnaligned(as: UInt16.self) == 0xeb9f else { throw .invalidArgument }
    let header = (1..<6).map { Int(bytes.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self)) }
    let (start, ends) = (header[0], (types: header[1] + header[2], names: header[3] + header[4]))
    guard start + max(ends.types, ends.names) <= bytes.count else { throw .invalidArgument }
    types = UnsafeRawBufferPointer(rebasing: bytes[start + header[1]..<start + ends.types])
    names = UnsafeRawBufferPointer(rebasing: bytes[start + header[3]..<start + ends.names])
    find(wanted)
  }

  private static func contents(of path: String) throws(Errno) -> UnsafeRawBufferPointer {
    let file = try Descriptor.open(path)
    let size = Int(try fstat(at: file.rawValue).st_size)
    // Since Linux 6.16 it can be mapped (kernel/bpf/sysfs_btf.c).
    if let mapped = mmap(nil, size, PROT_READ, MAP_PRIVATE, file.rawValue, 0), mapped != MAP_FAILED {
      return UnsafeRawBufferPointer(start: mapped, count: size)
    }
    let room = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 8)
    var count = 0
    while count < size {
      let n = try syscall(__NR_read, Int(file.rawValue), Int(bitPattern: room.baseAddress) + count, size - count)
      if n == 0 { break }
      count += n
    }
    return UnsafeRawBufferPointer(rebasing: room[..<count])
  }

  /// Goes through the types, of which there are more than a hundred thousand, until all that are wanted have been found.
  private mutating func find(_ wanted: [Named]) {
    // Four letters are compared first: so many names are not worth more.
    let all = Set(wanted.map { $0.name.utf8.prefix(4).reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) } })
    precondition(all.count <= 4)
    var beginnings = SIMD4<UInt32>()
    for (i, beginning) in all.enumerated() { beginnings[i] = beginning }
    var found: [Named: UInt32] = [:]
    let (types, names) = (types, names)
    walk { place, id, word in
      guard 1 << (word >> 24 & 0x1f) & Self.named != 0 else { return true }
      let name = Int(types.loadUnaligned(fromByteOffset: place, as: UInt32.self))
      guard name + 4 <= names.count, any(beginnings .== names.loadUnaligned(fromByteOffset: name, as: UInt32.self)),
        let kind = Kind(rawValue: word >> 24 & 0x1f),
        let match = wanted.first(where: { $0.kind == kind && Self.name(name, in: names, is: $0.name) })
      else { return true }
      found[match] = UInt32(id)
      return found.count < wanted.count
    }
    self.found = found
  }

  /// Goes on with the types that have not been gone through, while `body` says so of each: where it begins, its number, its second word.
  @inline(__always)
  private mutating func walk(while body: (_ place: Int, _ id: Int, _ word: UInt32) -> Bool) {
    var (place, id) = next
    var goesOn = true
    while goesOn, place + 12 <= types.count {
      if id % Self.stride == 1 { places.append(UInt32(place)) }
      let word = types.loadUnaligned(fromByteOffset: place + 4, as: UInt32.self)
      goesOn = body(place, id, word)
      place += Self.length(word)
      id += 1
    }
    next = (place, id)
  }

  /// The kinds that are looked for by their names.
  private static let named: UInt32 = 1 << Kind.structure.rawValue | 1 << Kind.function.rawValue

  /// Of so many types one has its place noted.
  private static let stride = 16

  /// Bytes of a type, by its second word: twelve, what its kind adds, and its members.
  @inline(__always)
  private static func length(_ word: UInt32) -> Int {
    let kind: UInt32 = 1 << (word >> 24 & 0x1f)
    // int, var, decl_tag; array
    let own = kind & (1 << 1 | 1 << 14 | 1 << 17) != 0 ? 4 : kind & (1 << 3) != 0 ? 12 : 0
    // struct, union, datasec, enum64; enum, func_proto
    let each = kind & (1 << 4 | 1 << 5 | 1 << 15 | 1 << 19) != 0 ? 12 : kind & (1 << 6 | 1 << 13) != 0 ? 8 : 0
    return 12 + own + each * Int(word & 0xffff)
  }

  private static func name(_ offset: Int, in names: UnsafeRawBufferPointer, is name: String) -> Bool {
    var i = offset
    for letter in name.utf8 {
      guard i < names.count, names[i] == letter else { return false }
      i += 1
    }
    return i < names.count && names[i] == 0
  }

  /// The number of a structure or function that was wanted.
  func id(of kind: Kind, _ name: String) -> UInt32? { found[Named(kind: kind, name: name)] }

  /// How to reach what a path of members names: "f_inode", "i_sb", "s_dev". `nil`: this kernel has no such value, or one that is no
  /// number or pointer.
  mutating func access(_ path: [String], in structure: UInt32) -> Access? {
    var access = Access()
    var holder = structure
    for (i, name) in path.enumerated() {
      guard let member = member(name, of: holder), var type = plain(member.type), var kind = kind(type) else { return nil }
      access.offset += member.offset
      // struct btf_array: type, index_type, nelems
      if kind == .array, word(type, 5) == 1, let only = plain(word(type, 3)), let itsKind = self.kind(only) {
        (type, kind) = (only, itsKind)
      }
      if i == path.count - 1 {
        switch kind {
        case .pointer: access.size = 8
        case .integer, .enumeration, .enumeration64: access.size = Int(word(type, 2))
        default: return nil
        }
        return [1, 2, 4, 8].contains(access.size) ? access : nil
      }
      holder = type
      if kind == .pointer {
        guard let target = plain(word(type, 2)) else { return nil }
        access.pointers.append(access.offset)
        access.offset = 0
        holder = target
      }
    }
    return nil
  }

  /// Where a member begins, in bytes, whatever it is.
  mutating func offset(of name: String, in structure: UInt32) -> Int? { member(name, of: structure)?.offset }

  /// Where a member begins, in bytes; also that of a structure or union without a name inside.
  private mutating func member(_ name: String, of holder: UInt32) -> (offset: Int, type: UInt32)? {
    guard let kind = kind(holder), kind == .structure || kind == .union else { return nil }
    let info = word(holder, 1)
    for i in 0..<Int(info & 0xffff) {
      // struct btf_member: name, type, offset in bits; with the flag, its upper byte is the size of a bit field.
      let (itsName, type, place) = (word(holder, 3 + 3 * i), word(holder, 4 + 3 * i), word(holder, 5 + 3 * i))
      let isBitField = info >> 31 != 0 && place >> 24 != 0
      let offset = Int(info >> 31 != 0 ? place & 0xffffff : place) / 8
      if Self.name(Int(itsName), in: names, is: name) { return isBitField ? nil : (offset, type) }
      if Self.name(Int(itsName), in: names, is: ""), let inner = plain(type), let found = member(name, of: inner) {
        return (offset + found.offset, found.type)
      }
    }
    return nil
  }

  /// A type without its names and qualifiers.
  private mutating func plain(_ type: UInt32) -> UInt32? {
    var type = type
    for _ in 0..<32 {
      switch kind(type) {
      case .typedef, .const, .volatile, .restrict, .typeTag: type = word(type, 2)
      case nil: return nil
      default: return type
      }
    }
    return nil
  }

  private mutating func kind(_ type: UInt32) -> Kind? { Kind(rawValue: word(type, 1) >> 24 & 0x1f) }

  /// The n-th word of a type; 0 where there is none.
  private mutating func word(_ type: UInt32, _ n: Int) -> UInt32 {
    if type >= next.id { walk { _, id, _ in id < type } }
    guard type > 0, type < next.id else { return 0 }
    var at = Int(places[Int(type - 1) / Self.stride])
    for _ in 0..<Int(type - 1) % Self.stride where at + 8 <= types.count {
      at += Self.length(types.loadUnaligned(fromByteOffset: at + 4, as: UInt32.self))
    }
    at += 4 * n
    return at + 4 <= types.count ? types.loadUnaligned(fromByteOffset: at, as: UInt32.self) : 0
  }
}
