import CLinux
import Glibc
import Synchronization
import SystemPackage

/// A walk through objects of the kernel itself, of which a program of ours reads what is wanted (Documentation/bpf/bpf_iterators.rst).
/// It costs a few hundred nanoseconds an object where a text of `/proc` or a system call for each takes microseconds, and changes nothing.
///
/// To get ready takes more than a millisecond, and rights that not everybody has (CAP_BPF, CAP_PERFMON). So it is for who has very many
/// objects, and whatever it tells can be found out without it.
public final class KernelIterator: Sendable {
  private let program: Descriptor

  /// Whether any may be used. Set before the first is.
  nonisolated(unsafe) public static var areAllowed = true

  private static let types = Mutex<BTF?>(
    areAllowed
      ? try? BTF(
        finding: ["vm_area_struct", "file", "task_struct", "bpf_iter_seq_task_common"].map { BTF.Named(kind: .structure, name: $0) }
          + ["bpf_iter_task_vma", "bpf_iter_task_file", "bpf_iter_task", "bpf_rdonly_cast"].map {
            BTF.Named(kind: .function, name: $0)
          }) : nil)

  /// An iterator that the kernel calls `name`; `nil` if this kernel does not have it as it is wanted, or does not let us use it.
  init?(_ name: String, _ fields: [IteratorProgram.Field], of object: (structure: String, offset: Int)) {
    let made = Self.types.withLock { types -> (function: UInt32, program: IteratorProgram)? in
      guard var known = types, let function = known.id(of: .function, "bpf_iter_" + name) else { return nil }
      types = nil
      defer { types = known }
      // Before Linux 6.1 an iterator goes through all tasks, whatever it is asked for.
      guard let task = known.id(of: .structure, "bpf_iter_seq_task_common"), known.access(["type"], in: task) != nil else { return nil }
      return IteratorProgram(fields, of: object, &known).map { (function, $0) }
    }
    guard let made, let loaded = try? Self.load(made.program, for: made.function) else { return nil }
    program = loaded
  }

  /// Throws if one of those that a dump uses is not to be had.
  public static func tryAll() throws(Failure) {
    let all = [("task_vma", MappingFlags.canBeAsked), ("task_file", OpenFiles.canBeAsked), ("task", KernelThreads.canBeAsked)]
    let missing = all.filter { !$0.1 }.map(\.0)
    if missing.count == all.count { _ = try about("/sys/kernel/btf/vmlinux") { () throws(Errno) in try BTF(finding: []) } }
    if !missing.isEmpty { throw Failure("the kernel does not take the program for \(missing.joined(separator: ", "))") }
  }

  private static func load(_ program: IteratorProgram, for function: UInt32) throws(Errno) -> Descriptor {
    var attributes = bpf_attr()
    attributes.prog_type = UInt32(BPF_PROG_TYPE_TRACING.rawValue)
    attributes.expected_attach_type = UInt32(BPF_TRACE_ITER.rawValue)
    attributes.attach_btf_id = function
    attributes.insn_cnt = UInt32(program.code.count)
    // The helpers are for programs that may be distributed under the GPL too, as this one may.
    let license: StaticString = "Dual BSD/GPL"
    attributes.license = UInt64(UInt(bitPattern: license.utf8Start))
    let number = try program.code.withUnsafeBufferPointer { code throws(Errno) in
      attributes.insns = UInt64(UInt(bitPattern: code.baseAddress))
      return try Self.bpf(BPF_PROG_LOAD, &attributes)
    }
    return Descriptor(number)
  }

  /// Reads the objects of a thread, or with `isProcess` of a process: so many words for each.
  func records(of id: Int32, isProcess: Bool = false) throws(Errno) -> [UInt64] {
    var what = bpf_iter_link_info()
    if isProcess { what.task.pid = UInt32(id) } else { what.task.tid = UInt32(id) }
    var attributes = bpf_attr()
    attributes.link_create.prog_fd = UInt32(program.rawValue)
    attributes.link_create.attach_type = UInt32(BPF_TRACE_ITER.rawValue)
    attributes.link_create.iter_info_len = UInt32(MemoryLayout<bpf_iter_link_info>.size)
    let link = Descriptor(
      try withUnsafeMutablePointer(to: &what) { what throws(Errno) in
        attributes.link_create.iter_info = UInt64(UInt(bitPattern: what))
        return try Self.bpf(BPF_LINK_CREATE, &attributes)
      })
    attributes = bpf_attr()
    attributes.iter_create.link_fd = UInt32(link.rawValue)
    let iterator = Descriptor(try Self.bpf(BPF_ITER_CREATE, &attributes))
    return try readRecords(iterator.rawValue)
  }

  /// Reads up to the half word that is written behind the last object. Behind it the kernel would begin with the last mappings anew
  /// (kernel/bpf/task_iter.c: task_vma_seq_get_next).
  private func readRecords(_ iterator: Int32) throws(Errno) -> [UInt64] {
    var words: [UInt64] = []
    var lastStart = 0
    // As much as the kernel has room for (kernel/bpf/bpf_iter.c: prepare_seq_file).
    let room = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: 4096)
    defer { room.deallocate() }
    while true {
      let n = try syscall(__NR_read, Int(iterator), Int(bitPattern: room.baseAddress), 8 * room.count)
      // It would not end, nor would what begins with the same object twice.
      if n == 0 || n >= 8 && lastStart < words.count && words[lastStart] == room[0] { throw .ioError }
      lastStart = words.count
      words.append(contentsOf: UnsafeBufferPointer(rebasing: room[..<(n / 8)]))
      if n % 8 != 0 { return words }
    }
  }

  private static func bpf(_ command: bpf_cmd, _ attributes: inout bpf_attr) throws(Errno) -> Int32 {
    try withUnsafeMutablePointer(to: &attributes) { attributes throws(Errno) in
      Int32(try syscall(__NR_bpf, Int(command.rawValue), Int(bitPattern: attributes), MemoryLayout<bpf_attr>.size))
    }
  }
}
