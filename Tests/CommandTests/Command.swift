import Foundation
import Testing

/// What a run of the built program said.
struct Outcome {
  let status: Int32
  let output: String
  let errors: String

  /// The output as the one JSON document that it has to be.
  func json() throws -> [String: Any] {
    let document = try JSONSerialization.jsonObject(with: Data(output.utf8))
    return try #require(document as? [String: Any])
  }
}

/// Runs `swift-restore`: the one beside the test program, or the one that `$SWIFT_RESTORE` names;
/// `prefix` is a program and its arguments that runs it.
func swiftRestore(_ arguments: String..., as prefix: String...) throws -> Outcome {
  let own = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
  let beside = URL(fileURLWithPath: own).deletingLastPathComponent().appendingPathComponent("swift-restore")
  let path = ProcessInfo.processInfo.environment["SWIFT_RESTORE"] ?? beside.path
  let process = Process()
  // env finds the program in PATH.
  process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
  process.arguments = prefix + [path] + arguments
  let (output, errors) = (Pipe(), Pipe())
  process.standardOutput = output
  process.standardError = errors
  try process.run()
  // What goes to stderr is a few lines, and fits into its pipe.
  let said = output.fileHandleForReading.readDataToEndOfFile()
  let complained = errors.fileHandleForReading.readDataToEndOfFile()
  process.waitUntilExit()
  #expect(process.terminationReason == .exit, "a signal ended swift-restore \(arguments)")
  return Outcome(
    status: process.terminationStatus, output: String(decoding: said, as: UTF8.self),
    errors: String(decoding: complained, as: UTF8.self))
}

/// The image sets that CRIU wrote: `$SHARED/criu-images`, by default beside the repository.
let samples: String = {
  (ProcessInfo.processInfo.environment["SHARED"] ?? "../shared") + "/criu-images"
}()
let haveSamples = FileManager.default.fileExists(atPath: samples + "/sleep/inventory.img")

/// A folder that is gone after `body`.
func withFolder<T>(_ body: (String) throws -> T) throws -> T {
  let path = "/tmp/swift-restore.\(UUID().uuidString)"
  try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
  defer { try? FileManager.default.removeItem(atPath: path) }
  return try body(path)
}

/// A copy of a sample, to damage it.
func withCopy<T>(of sample: String, _ body: (String) throws -> T) throws -> T {
  try withFolder { folder in
    for name in try FileManager.default.contentsOfDirectory(atPath: samples + "/" + sample) {
      let data = try Data(contentsOf: URL(fileURLWithPath: "\(samples)/\(sample)/\(name)"))
      try data.write(to: URL(fileURLWithPath: folder + "/" + name))
    }
    return try body(folder)
  }
}
