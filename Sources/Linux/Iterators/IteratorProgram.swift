/// The program that the kernel runs for each object of an iterator (Documentation/bpf/standardization/instruction-set.rst): it writes
/// a record of 64-bit words, and behind the last object half a word.
///
/// Half a word, because that always finds room. The kernel throws away what does not fit into what is left of its buffer of 32 KiB, and
/// takes a full one for not fitting (fs/seq_file.c: seq_write); records of whole words leave at least one.
struct IteratorProgram {
  /// What a word of the record is.
  enum Field {
    /// What a path of members leads to, from the object on; of several paths the first that this kernel has.
    case member([[String]])
    /// The same of a member that not every kernel has; 0 where there is none.
    case memberIfAny(String)
    /// Eight bytes of an array of bytes, from this offset on.
    case bytes(of: String, offset: Int)
    /// The object's address, which identifies it.
    case address
    /// Another argument of the iterator: so many bytes at this offset of its context.
    case argument(offset: Int, size: Int)
    /// Whether a descriptor closes on exec: its bit in its task's table.
    case closesOnExec(task: Int, number: Int)

    static func member(_ path: String...) -> Field { .member([path]) }
  }

  private(set) var code: [UInt64] = []

  /// - Parameters:
  ///   - object: the structure that the iterator goes through, and the offset of its address in the context.
  ///   - fields: at most 48.
  ///
  /// `nil`: this kernel lacks one of the fields.
  init?(_ fields: [Field], of object: (structure: String, offset: Int), _ types: inout BTF) {
    guard let structure = types.id(of: .structure, object.structure) else { return nil }
    let record = -8 * fields.count
    code.append(Self.move(.r6, from: .r1))
    code.append(Self.load(.r7, from: .r6, object.offset, size: 8))
    let branch = code.count
    code.append(0)
    appendCast(of: .r7, to: structure, &types)
    for (i, field) in fields.enumerated() {
      switch field {
      case .member(let paths):
        var access: BTF.Access?
        for path in paths where access == nil { access = types.access(path, in: structure) }
        guard let access else { return nil }
        append(access, from: .r7)
      case .memberIfAny(let name):
        if let access = types.access([name], in: structure) {
          append(access, from: .r7)
        } else {
          code.append(Self.instruction(.moveValue, .r1, .r0, 0, 0))
        }
      case .bytes(let name, let offset):
        guard let start = types.offset(of: name, in: structure) else { return nil }
        code.append(Self.load(.r1, from: .r7, start + offset, size: 8))
      case .address: code.append(Self.move(.r1, from: .r7))
      case .argument(let offset, let size): code.append(Self.load(.r1, from: .r6, offset, size: size))
      case .closesOnExec(let task, let number):
        guard let structure = types.id(of: .structure, "task_struct"),
          let access = types.access(["files", "fdt", "close_on_exec"], in: structure)
        else { return nil }
        appendBit(of: access, task: task, number: number, scratch: record - 8, castTo: structure, &types)
      }
      code.append(Self.store(.r1, to: .r10, record + 8 * i))
    }
    appendWrite(record, length: -record)
    code[branch] = Self.instruction(.jumpIfEqual, .r7, .r0, code.count - branch - 1)
    code.append(Self.instruction(.storeValue, .r10, .r0, -8, -1))
    appendWrite(-8, length: 4)
  }

  /// Loads into r1 what is reached from an address. The kernel reads 0 where that is none.
  private mutating func append(_ access: BTF.Access, from register: Register) {
    var from = register
    for offset in access.pointers {
      code.append(Self.load(.r1, from: from, offset, size: 8))
      from = .r1
    }
    code.append(Self.load(.r1, from: from, access.offset, size: access.size))
  }

  /// Has the kernel take an address for one that nobody vouches for. With others it looks by name, for each pointer that is read there,
  /// whether that can be trusted: in a list of a hundred thousand, which took nine milliseconds once (kernel/bpf/verifier.c:
  /// check_ptr_to_btf_access). The call is none when the program runs. Linux before 6.2 has no such thing.
  private mutating func appendCast(of register: Register, to structure: UInt32, _ types: inout BTF) {
    guard let cast = types.id(of: .function, "bpf_rdonly_cast") else { return }
    code += [
      Self.move(.r1, from: register),
      Self.instruction(.moveValue, .r2, .r0, 0, Int(structure)),
      Self.instruction(.call, .r0, .r2, 0, Int(cast)),  // a function of the kernel's: BPF_PSEUDO_KFUNC_CALL
      Self.move(register, from: .r0),
    ]
  }

  /// Loads into r1 a descriptor's bit of a bitmap.
  private mutating func appendBit(
    of bitmap: BTF.Access, task: Int, number: Int, scratch: Int, castTo structure: UInt32, _ types: inout BTF
  ) {
    code.append(Self.load(.r8, from: .r6, task, size: 8))
    code.append(Self.instruction(.moveValue, .r1, .r0, 0, 0))
    let branch = code.count
    code.append(0)
    appendCast(of: .r8, to: structure, &types)
    append(bitmap, from: .r8)
    code.append(Self.load(.r8, from: .r6, number, size: 4))
    code += [
      Self.move(.r3, from: .r8),
      Self.instruction(.shiftRight, .r3, .r0, 0, 6),
      Self.instruction(.shiftLeft, .r3, .r0, 0, 3),
      Self.instruction(.addRegister, .r3, .r1),
      Self.instruction(.storeValue, .r10, .r0, scratch, 0),
      Self.move(.r1, from: .r10),
      Self.instruction(.add, .r1, .r0, 0, scratch),
      Self.instruction(.moveValue, .r2, .r0, 0, 8),
      Self.instruction(.call, .r0, .r0, 0, 113),  // bpf_probe_read_kernel(to, size, from)
      Self.load(.r1, from: .r10, scratch, size: 8),
      Self.instruction(.and, .r8, .r0, 0, 63),
      Self.instruction(.shiftRightByRegister, .r1, .r8),
      Self.instruction(.and, .r1, .r0, 0, 1),
    ]
    code[branch] = Self.instruction(.jumpIfEqual, .r8, .r0, code.count - branch - 1)
  }

  /// Writes the record and ends: bpf_seq_write(context.meta->seq, record, bytes).
  private mutating func appendWrite(_ record: Int, length: Int) {
    code += [
      Self.load(.r1, from: .r6, 0, size: 8),
      Self.load(.r1, from: .r1, 0, size: 8),
      Self.move(.r2, from: .r10),
      Self.instruction(.add, .r2, .r0, 0, record),
      Self.instruction(.moveValue, .r3, .r0, 0, length),
      Self.instruction(.call, .r0, .r0, 0, 127),
      Self.instruction(.moveValue, .r0, .r0, 0, 0),
      Self.instruction(.exit, .r0, .r0),
    ]
  }

  private enum Register: UInt64 {
    case r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10
  }

  /// Of 64 bits, unless the name says less; with a value where it does not name a register.
  private enum Operation: UInt64 {
    case loadByte = 0x71, loadHalf = 0x69, loadWord = 0x61, load = 0x79
    case store = 0x7b, storeValue = 0x7a
    case move = 0xbf, moveValue = 0xb7
    case add = 0x07, addRegister = 0x0f, and = 0x57, shiftLeft = 0x67, shiftRight = 0x77, shiftRightByRegister = 0x7f
    case jumpIfEqual = 0x15, call = 0x85, exit = 0x95
  }

  private static func instruction(
    _ operation: Operation, _ destination: Register, _ source: Register, _ offset: Int = 0, _ value: Int = 0
  ) -> UInt64 {
    operation.rawValue | destination.rawValue << 8 | source.rawValue << 12 | UInt64(UInt16(truncatingIfNeeded: offset)) << 16
      | UInt64(UInt32(truncatingIfNeeded: value)) << 32
  }

  private static func move(_ destination: Register, from source: Register) -> UInt64 { instruction(.move, destination, source) }

  private static func load(_ destination: Register, from base: Register, _ offset: Int, size: Int) -> UInt64 {
    let operation: Operation = [1: .loadByte, 2: .loadHalf, 4: .loadWord][size] ?? .load
    return instruction(operation, destination, base, offset)
  }

  private static func store(_ source: Register, to base: Register, _ offset: Int) -> UInt64 {
    instruction(.store, base, source, offset)
  }
}
