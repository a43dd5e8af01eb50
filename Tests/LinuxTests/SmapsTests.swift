import Glibc
import Linux
import Testing

/// `/proc/self/smaps`, and what of it is found by its place.
struct SmapsTests {
  private func ownSmaps() throws -> String {
    let buffer = ReadBuffer()
    return String(
      decoding: try withExtendedLifetime(buffer) { Array(try ProcDirectory(pid: getpid()).read("smaps", buffer)) }, as: UTF8.self)
  }

  private func parse(_ text: String) -> [Mapping] {
    var text = text
    return text.withUTF8 { Mapping.parse(UnsafeRawBufferPointer($0)) }
  }

  /// Each mapping's text, from its own line on.
  private func records(_ text: String) -> [String] {
    var records: [String] = []
    for line in text.split(separator: "\n") {
      if line.first.map({ $0.isHexDigit && !$0.isUppercase }) ?? false { records.append("") }
      records[records.count - 1] += line + "\n"
    }
    return records
  }

  /// In a text of its own nothing is known of a mapping's properties but their names.
  @Test func manySayTheSameAsEach() throws {
    let text = try ownSmaps()
    let all = parse(text)
    #expect(all.count > 10 && all.contains { $0.flags.contains(.mayWrite) })
    #expect(all == records(text).flatMap(parse))
  }

  /// Of two lines with one name the last counts, where lines are read one by one, and the one at the place where they are not. One record
  /// three times: where a number has more digits than the kernel leaves room for, as of a sanitizer's shadow, places differ.
  @Test func propertiesAreFoundByTheirPlace() throws {
    let record =
      try #require(records(ownSmaps()).first).split(separator: "\n")
      .map { $0.hasPrefix("MMUPageSize:") ? "KernelPageSize:       64 kB" : $0 }.joined(separator: "\n") + "\n"
    #expect(parse(record + record + record).map(\.kernelPageSizeKB) == [64, 4, 4])
  }
}
