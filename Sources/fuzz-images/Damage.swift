/// Every way to damage one image of a sample a little: cut short at every byte, and each bit flipped. Pages, which are long and
/// have no structure, are cut only, around the end of each page.
struct Damage {
  enum Kind: CustomStringConvertible {
    case cut(Int)
    case flip(bit: Int)
    case gone

    var description: String {
      switch self {
      case .cut(let length): "cut to \(length) bytes"
      case .flip(let bit): "bit \(bit % 8) of byte \(bit / 8) flipped"
      case .gone: "gone"
      }
    }
  }

  let sample: Int
  let file: Int
  let kind: Kind

  static func all(_ samples: [Sample]) -> [Damage] {
    var all: [Damage] = []
    for (i, sample) in samples.enumerated() {
      for (j, file) in sample.files.enumerated() {
        all.append(Damage(sample: i, file: j, kind: .gone))
        let arePages = file.name.hasPrefix("pages-")
        for length in 0..<file.bytes.count where !arePages || [4095, 0, 1].contains(length % 4096) {
          all.append(Damage(sample: i, file: j, kind: .cut(length)))
        }
        if !arePages { all += (0..<file.bytes.count * 8).map { Damage(sample: i, file: j, kind: .flip(bit: $0)) } }
      }
    }
    return all
  }

  /// Whether it can be seen without checksums. Nothing says how many descriptors a task has, or pipes with content there are.
  func isVisible(in samples: [Sample]) -> Bool {
    let (name, bytes) = samples[sample].files[file]
    switch kind {
    case .gone: return !["pipes-data.img", "fifo-data.img", "seccomp.img", "timens-0.img"].contains(name) && !name.hasPrefix("ids-")
    case .flip: return false
    case .cut(let length):
      guard name.hasPrefix("fdinfo-") || name == "pipes-data.img" || name == "fifo-data.img" else { return true }
      var entry = 8
      while entry < length { entry += 4 + (0..<4).reduce(0) { $0 + Int(bytes[entry + $1]) << (8 * $1) } }
      return entry != length
    }
  }

  /// `bytes` are `nil` if the file is not there.
  func applied(to samples: [Sample]) -> (name: String, bytes: [UInt8]?) {
    var (name, bytes) = samples[sample].files[file]
    switch kind {
    case .cut(let length): bytes.removeLast(bytes.count - length)
    case .gone: return (name, nil)
    case .flip(let bit): bytes[bit / 8] ^= 1 << (bit % 8)
    }
    return (name, bytes)
  }
}
