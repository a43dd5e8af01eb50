/// Short options as getopt takes them, and so CRIU (man 3 getopt): several in one word, the last with its value (`-jvvvt 5`, `-D/images`).
/// The argument parser has no notation for some of that, nor for `-v4`, `-vvvv` and `-V`; it gets what it knows.
enum ShortOptions {
  private static let flags: Set<Character> = ["R", "s", "S", "j", "d", "h"]
  private static let valued: Set<Character> = ["t", "D", "W", "o"]

  static func spelledOut(_ words: some Sequence<String>) -> [String] {
    var result: [String] = []
    var words = words.makeIterator()
    var verbosity = 0
    while let word = words.next() {
      if word == "--" { return result + [word] + IteratorSequence(words) }
      guard word.hasPrefix("-"), !word.hasPrefix("--"), let options = split(word.dropFirst(), &verbosity) else {
        result.append(word)
        continue
      }
      result += options
      // The next word is a value, whatever it looks like.
      if let last = options.last?.last, options.last?.count == 2, valued.contains(last), options.last?.first == "-",
        let value = words.next()
      {
        result.append(value)
      }
    }
    return result
  }

  /// `nil` if there is anything among them that is no option.
  private static func split(_ letters: Substring, _ verbosity: inout Int) -> [String]? {
    var result: [String] = []
    var level = verbosity
    var rest = letters
    while let letter = rest.popFirst() {
      switch letter {
      case "v":
        let digits = rest.prefix { $0.isASCII && $0.isNumber }
        rest = rest.dropFirst(digits.count)
        level = digits.isEmpty ? level + 1 : Int(digits) ?? .max
        if !rest.hasPrefix("v") { result.append("--verbosity=\(level)") }
      case "V": result.append("--version")
      case let flag where flags.contains(flag): result.append("-\(flag)")
      case let option where valued.contains(option):
        // `-D=images` and `-t-5` are the argument parser's affair.
        if let next = rest.first, "=-".contains(next) { return nil }
        result += rest.isEmpty ? ["-\(option)"] : ["-\(option)", String(rest)]
        rest = ""
      default: return nil
      }
    }
    verbosity = level
    return result.isEmpty ? nil : result
  }
}
