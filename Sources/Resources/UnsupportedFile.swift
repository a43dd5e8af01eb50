import Glibc

/// Names what a description is that no kind matches.
enum UnsupportedFile {
  static func feature(_ file: DumpedFile) -> String { "\(file.linkText) (unsupported)" }
}
