import Foundation
import SystemPackage

@testable import Checkpoint

/// A folder that goes away with this value.
final class TemporaryDirectory {
  let path: String

  init() throws {
    // In memory where possible: ext4 is slow to make files again that were just removed.
    let shared = "/dev/shm/"
    let parent = FileManager.default.isWritableFile(atPath: shared) ? shared : NSTemporaryDirectory()
    path = parent + "checkpoint-tests-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func images() throws -> ImageDirectory { try ImageDirectory(creating: FilePath(path)) }

  func contents(_ file: ImageFile) throws -> [UInt8] {
    [UInt8](try Data(contentsOf: URL(fileURLWithPath: path + "/" + file.fileName)))
  }

  func write(_ bytes: some Sequence<UInt8>, to file: ImageFile) throws {
    try Data(bytes).write(to: URL(fileURLWithPath: path + "/" + file.fileName))
  }
}
