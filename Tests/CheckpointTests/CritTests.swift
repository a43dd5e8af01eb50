import Foundation
import SystemPackage
import Testing

@testable import Checkpoint

/// Debian's `crit`, which has CRIU's own description of the format, though that of an older version.
private let crit = "/usr/bin/crit"

@Suite(.enabled(if: FileManager.default.isExecutableFile(atPath: crit), "crit is not installed"))
struct CritTests {
  @Test("crit reads every kind of image that we write, our own fields or not")
  func decodes() throws {
    let temporary = try TemporaryDirectory()
    let images = try temporary.images()
    try writeEveryKind(to: images)
    let names = try FileManager.default.contentsOfDirectory(atPath: temporary.path).sorted()
    #expect(names.count > 35)
    for name in names {
      let output = try run(["decode", "-i", temporary.path + "/" + name])
      let json = try #require(try JSONSerialization.jsonObject(with: output) as? [String: Any], "\(name)")
      #expect((json["entries"] as? [Any])?.isEmpty == false, "\(name)")
    }
  }

  @Test("crit x shows the tree of an image set that we have copied", arguments: samples)
  func explores(sample: String) throws {
    let source = try ImageDirectory(opening: FilePath(sample))
    let temporary = try TemporaryDirectory()
    let destination = try temporary.images()
    for file in try images(of: sample) { _ = try copy(file, from: source, to: destination) }
    for what in ["ps", "fds", "mems"] {
      let shown = try run(["x", temporary.path, what])
      #expect(!shown.isEmpty)
      #expect(try shown == run(["x", sample, what]))
    }
  }

  private func writeEveryKind(to images: borrowing ImageDirectory) throws {
    try write(InventoryEntry.self, .inventory, images)
    try write(PstreeEntry.self, .pstree, images)
    try write(CoreEntry.self, .core(1), images)
    try write(TaskKobjIdsEntry.self, .ids(1), images)
    try write(SeccompEntry.self, .seccomp, images)
    try write(CgroupEntry.self, .cgroup, images)
    try write(CpuinfoEntry.self, .cpuinfo, images)
    try write(MmEntry.self, .mm(1), images)
    try write(PagemapHead.self, .pagemap(1), images, then: (PagemapEntry.self, []))
    try write(PagemapHead.self, .pagemapShmem(1), images, then: (PagemapEntry.self, []))
    try write(FdinfoEntry.self, .fdinfo(1), images)
    try write(FileEntry.self, .files, images)
    try write(FsEntry.self, .fs(1), images)
    try write(RemapFilePathEntry.self, .remapFilePath, images)
    try write(FileLockEntry.self, .fileLocks, images)
    try write(MemfdInodeEntry.self, .memfd, images)
    try write(TtyInfoEntry.self, .ttyInfo, images)
    try write(TtyDataEntry.self, .ttyData, images)
    try write(PidnsEntry.self, .pidns(1), images)
    try write(UsernsEntry.self, .userns(1), images)
    try write(UtsnsEntry.self, .utsns(1), images)
    try write(TimensEntry.self, .timens(1), images)
    try write(IpcVarEntry.self, .ipcVar(1), images)
    try write(MntEntry.self, .mountpoints(1), images)
    try write(NetDeviceEntry.self, .netdev(1), images)
    try write(NetnsEntry.self, .netns(1), images)
    try write(StatsEntry.self, .statsDump, images)
    try write(StatsEntry.self, .statsRestore, images)
    try write(GhostFileEntry.self, .ghostFile(0x1f), images, raw: 5) { $0.chunks = false }
    try write(PipeDataEntry.self, .pipesData, images, raw: 5) { $0.bytes = 5 }
    try write(PipeDataEntry.self, .fifoData, images, raw: 5) { $0.bytes = 5 }
    try write(SkPacketEntry.self, .skQueues, images, raw: 5) { $0.length = 5 }
    try write(IpcShmEntry.self, .ipcShm(1), images, raw: 8) { ($0.size, $0.inPagemaps) = (5, false) }
    try write(IpcSemEntry.self, .ipcSem(1), images, raw: 8) { $0.nsems = 3 }
    try write(
      IpcMsgEntry.self, .ipcMsg(1), images, then: (IpcMsg.self, Array("bytes of 24 that follow".utf8) + [0])
    ) {
      $0.qnum = 1
    }
    try write(TcpStreamEntry.self, .tcpStream(0x1f), images, raw: 9) { ($0.inqLen, $0.outqLen) = (4, 5) }
  }

  /// Writes an image with an entry that has all fields.
  private func write<Message: CMessage>(
    _ type: Message.Type, _ file: ImageFile, _ images: borrowing ImageDirectory, raw: Int = 0,
    _ change: (inout Message) -> Void = { _ in }
  ) throws {
    var message = try everything(type)
    change(&message)
    var writer = try ImageWriter(file, in: images)
    try writer.append(message)
    try writer.append(raw: [UInt8](repeating: 7, count: raw))
    try writer.finish()
  }

  private func write<First: CMessage, Second: CMessage>(
    _ type: First.Type, _ file: ImageFile, _ images: borrowing ImageDirectory,
    then second: (type: Second.Type, raw: [UInt8]), _ change: (inout First) -> Void = { _ in }
  ) throws {
    var message = try everything(type)
    change(&message)
    var writer = try ImageWriter(file, in: images)
    try writer.append(message)
    try writer.append(try everything(second.type))
    try writer.append(raw: second.raw)
    try writer.finish()
  }

  private func everything<Message: CMessage>(_ type: Message.Type) throws -> Message {
    var sample = WireSample(repeated: 1)
    var message = try decoded(type, sample.bytes(of: type))
    // An ipc_msg says how many bytes follow it.
    if var text = message as? IpcMsg {
      text.msize = 24
      message = text as? Message ?? message
    }
    return message
  }

  /// Runs crit by the system's Python, which has its library.
  private func run(_ arguments: [String]) throws -> Data {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: crit)
    process.arguments = arguments
    process.environment = ["PATH": "/usr/bin:/bin"]
    let (output, errors) = (Pipe(), Pipe())
    process.standardOutput = output
    process.standardError = errors
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    let said = errors.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    #expect(
      process.terminationStatus == 0,
      "crit \(arguments): \(String(decoding: said.suffix(300), as: UTF8.self))")
    return data
  }
}
