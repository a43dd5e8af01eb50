import Foundation
import Testing

@testable import swift_restore

@Suite struct JSONTests {
  @Test("What is written is read back by another reader, whatever the text")
  func roundTrip() throws {
    let text = "\"\\\n\t\u{1}\u{1f} é \u{1f600} /"
    let json = JSON.object([
      ("text", .string(text)), (text, .null), ("yes", .bool(true)), ("big", .number(UInt64.max)),
      ("list", .array([.number(-1), .array([]), .object([])])), ("absent", .string(nil)),
    ])
    let read = try JSONSerialization.jsonObject(with: Data(json.description.utf8))
    let members = try #require(read as? [String: Any])
    #expect(members["text"] as? String == text)
    #expect(members[text] is NSNull)
    #expect(members["yes"] as? Bool == true)
    #expect(members["big"] as? UInt64 == UInt64.max)
    #expect((members["list"] as? [Any])?.count == 3)
    #expect(members["absent"] is NSNull)
  }

  @Test("Keys keep their order") func order() {
    #expect(JSON.object([("b", .number(1)), ("a", .number(2))]).description == #"{"b":1,"a":2}"#)
  }
}
