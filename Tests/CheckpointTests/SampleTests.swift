import Foundation
import SystemPackage
import Testing

@testable import Checkpoint

/// The image sets that CRIU wrote: `$SHARED/criu-images`, by default beside the repository.
let samples: [String] = {
  let shared = ProcessInfo.processInfo.environment["SHARED"] ?? "../shared"
  let root = shared + "/criu-images"
  let names = (try? FileManager.default.contentsOfDirectory(atPath: root)) ?? []
  return names.sorted().map { root + "/" + $0 }
}()

/// The images of a sample, by the kinds that it has.
func images(of sample: String) throws -> [ImageFile] {
  try FileManager.default.contentsOfDirectory(atPath: sample).sorted().map { name in
    let stem = name.replacing(".img", with: "")
    let number = stem.split(separator: "-").last.flatMap { UInt32($0) } ?? 0
    let kinds: [ImageFile] = [
      .inventory, .pstree, .seccomp, .files, .pipesData, .skQueues, .core(number), .ids(number), .mm(number),
      .pagemap(number), .pages(number), .fdinfo(number), .fs(number), .timens(number),
    ]
    return try #require(kinds.first { $0.fileName == name }, "\(name)")
  }
}

@Suite(.enabled(if: !samples.isEmpty, "no samples: set SHARED"))
struct SampleTests {
  @Test("An image that CRIU wrote, decoded and encoded again, is the same to the byte", arguments: samples)
  func rewritten(sample: String) throws {
    let source = try ImageDirectory(opening: FilePath(sample))
    let temporary = try TemporaryDirectory()
    let destination = try temporary.images()
    for file in try images(of: sample) {
      let entries = try copy(file, from: source, to: destination)
      if file.magic.first != nil, file != .pipesData { #expect(entries > 0, "\(file.fileName)") }
      let original = try Data(contentsOf: URL(fileURLWithPath: sample + "/" + file.fileName))
      #expect(try temporary.contents(file) == [UInt8](original), "\(file.fileName)")
    }
  }

  @Test("The tree of the sample `mixed` is there: three threads, two children in a session of their own")
  func mixed() throws {
    let sample = try #require(samples.first { $0.hasSuffix("/mixed") })
    let directory = try ImageDirectory(opening: FilePath(sample))
    let tree = try directory.readAll(PstreeEntry.self, from: .pstree)
    #expect(tree.map(\.threads.count) == [3, 1, 1])
    #expect(tree.map { $0.sid == tree[0].sid } == [true, false, false])

    let core = try directory.read(CoreEntry.self, from: .core(tree[0].pid))
    #expect(core.mtype == .x86_64)
    #expect(core.tc?.comm == Array("mixed".utf8))
    #expect(core.threadInfo?.gpregs.cs == 0x33)

    let files = try directory.readAll(FileEntry.self, from: .files)
    #expect(files.contains { $0.type == .eventpoll && $0.epfd?.tfd.isEmpty == false })
    #expect(files.first { $0.type == .reg }?.reg?.name == Array("/tmp/mixed".utf8))
    #expect(files.contains { $0.isk?.state == 10 })
  }
}
