import SystemPackage

/// The flags of a process's mappings, asked of the kernel's own list of them. For smaps, which has them too, the kernel looks at every
/// page and writes two dozen lines for each mapping: five times as long.
struct MappingFlags {
  /// Two words of each mapping in ascending order: its start, and its flags (include/linux/mm.h: VM_READ and the next).
  private let words: [UInt64]

  private static let iterator = KernelIterator("task_vma", [.member("vm_start"), .member("vm_flags")], of: ("vm_area_struct", 16))

  static var canBeAsked: Bool { iterator != nil }

  /// `nil`: they can be told by smaps only. That is so as well if there are flags of which it is not known what smaps would call them, and
  /// if it calls those of `known`, the first mappings, something else.
  init?(of pid: Int32, agreeingWith known: ArraySlice<Mapping>) {
    guard let words = try? Self.iterator?.records(of: pid) else { return nil }
    self.words = words
    guard 2 * known.count <= words.count, stride(from: 1, to: words.count, by: 2).allSatisfy({ words[$0] & ~Self.familiar == 0 }),
      known.indices.allSatisfy({ flags(of: known[$0], at: $0) == known[$0].flags })
    else { return nil }
  }

  /// Those of a mapping with this number; `nil` if it begins elsewhere. The gate, which maps shows last, is none of the process's own.
  func flags(of mapping: borrowing Mapping, at index: Int) -> VMFlags? {
    if 2 * index == words.count, mapping.name.elementsEqual("[vsyscall]".utf8) { return [] }
    guard 2 * index < words.count, words[2 * index] == mapping.start else { return nil }
    var flags: VMFlags = []
    for (bit, name) in Self.names where words[2 * index + 1] & bit != 0 { flags.formUnion(name) }
    return flags
  }

  /// What smaps has a name for that matters here. These bits have been the same ever since there is the iterator for one task (Linux 6.1).
  private static let names: [(bit: UInt64, flag: VMFlags)] = [
    (0x20, .mayWrite), (0x80, .mayShare), (0x100, .growsDown), (0x200, .userfaultMissing), (0x400, .pfnMap),
    (0x1000, .userfaultWriteProtect), (0x2000, .locked), (0x4000, .io), (0x8000, .sequential), (0x1_0000, .random),
    (0x2_0000, .dontCopy), (0x4_0000, .dontExpand), (0x8_0000, .lockOnFault), (0x10_0000, .accounted), (0x20_0000, .noReserve),
    (0x200_0000, .wipeOnFork), (0x400_0000, .dontDump), (0x1000_0000, .mixedMap), (0x2000_0000, .hugePage),
    (0x4000_0000, .noHugePage), (0x8000_0000, .mergeable),
  ]

  /// Besides: what `maps` shows or nobody asks for (VM_READ, VM_WRITE, VM_EXEC, VM_SHARED, VM_MAYREAD, VM_MAYEXEC, VM_SYNC, VM_SOFTDIRTY).
  /// VM_HUGETLB is not among them: the size of such pages is in smaps.
  private static let familiar: UInt64 = names.reduce(0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x40 | 0x80_0000 | 0x800_0000) { $0 | $1.bit }
}
