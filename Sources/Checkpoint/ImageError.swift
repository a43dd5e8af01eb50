import Linux
import SystemPackage

/// What is wrong with an image, or why it could not be read or written.
public struct ImageError: Error, Hashable, Sendable, CustomStringConvertible {
  public enum Problem: Error, Hashable, Sendable {
    /// A system call failed; `call` is what was attempted, in words.
    case system(call: String, Errno)
    /// The file ends at byte `end`, inside of something that needs to reach byte `needed`.
    case cutShort(end: Int, needed: Int)
    /// The file does not begin with the magic word of its kind.
    case wrongMagic(found: UInt32, expected: UInt32)
    /// An entry claims to be longer than any can be, in bytes.
    case tooLong(length: Int, limit: Int)
    /// The bytes are not the message that belongs there.
    case malformed(message: String, detail: String)
    /// The file has another size than was written, in bytes.
    case wrongSize(found: Int, expected: Int)
    /// The file has other content than was written.
    case wrongChecksum
    /// There is no entry where one has to be.
    case missing(message: String)
  }

  /// The name of the image file.
  public var file: String
  /// Which entry of the file, counted from 0; nil if it is not about one.
  public var entry: Int?
  public var problem: Problem

  public init(file: String = "", entry: Int? = nil, _ problem: Problem) {
    self.file = file
    self.entry = entry
    self.problem = problem
  }

  public var description: String {
    (file.isEmpty ? "" : file + ": ") + (entry.map { "entry \($0): " } ?? "") + problem.description
  }
}

extension ImageError.Problem: CustomStringConvertible {
  public var description: String {
    switch self {
    case .system(let call, let errno): "\(call): \(errno.nameAndText)"
    case .cutShort(let end, let needed):
      "cut short: it ends at byte \(end) and should go on to byte \(needed)"
    case .wrongMagic(let found, let expected):
      "begins with \(hex(found)), not \(hex(expected)): not an image of this kind"
    case .tooLong(let length, let limit):
      "claims to be \(length) bytes long, \(limit) is the most there can be"
    case .malformed(let message, let detail): "not a \(message): \(detail)"
    case .wrongSize(let found, let expected): "has \(found) bytes, \(expected) were written"
    case .wrongChecksum: "is damaged: its checksum is not the one in inventory.img"
    case .missing(let message): "there is no \(message) in it"
    }
  }

  private func hex(_ word: UInt32) -> String { "0x" + String(word, radix: 16) }
}
