import ArgumentParser
import Dump
import Linux
import Resources

struct DumpCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "dump", abstract: "Freeze a process tree, write it to image files, and end it.")

  @Option(name: [.customShort("t"), .customLong("tree"), .customLong("pid")], help: "The root of the tree.")
  var pid: Int32

  @OptionGroup var common: CommonOptions

  @Flag(name: [.customShort("R"), .long], inversion: .prefixedNo, help: "Let the tree run on afterwards.")
  var leaveRunning = false

  @Flag(
    inversion: .prefixedNo,
    help: "With --leave-running: freeze the tree only to copy its memory on write, and write the copies while it runs on.")
  var snapshot = false

  @Flag(name: [.customShort("s"), .long], inversion: .prefixedNo, help: "Leave the tree stopped afterwards.")
  var leaveStopped = false

  @Flag(
    name: [.customShort("j"), .long], inversion: .prefixedNo,
    help: "The session or terminal belongs to a shell outside of the tree.")
  var shellJob = false

  @Option(help: "The largest deleted file to keep, in bytes; K, M and G may follow.")
  var ghostLimit: ByteCount = ByteCount(bytes: 1 << 20)

  @Option(help: "Give up after so many seconds of freezing.")
  var timeout: Int = 10

  @Flag(
    inversion: .prefixedNo,
    help: "Checksums of memory too, for which it is read again; check --images and restore --verify-memory compare them.")
  var checksumMemory = false

  @Option(
    help: "Ask the kernel's own lists (BPF iterators) where there are very many mappings, descriptors or threads: auto, or never.")
  var kernelIterators = IteratorUse.auto

  func validate() throws {
    guard timeout >= 0 else { throw ValidationError("The timeout is a number of seconds, from 0 up.") }
    if snapshot, !leaveRunning || leaveStopped {
      throw ValidationError("--snapshot is for programs that run on: give --leave-running with it.")
    }
  }

  func run() throws { try request.run() }

  var request: DumpRequest {
    var request = DumpRequest(common: common.values)
    request.options.pid = pid
    request.options.leaveRunning = leaveRunning
    request.options.leaveStopped = leaveStopped
    request.options.snapshot = snapshot
    request.options.shellJob = shellJob
    request.options.ghostLimit = ghostLimit.bytes
    request.options.timeout = timeout
    request.options.checksumMemory = checksumMemory
    request.options.usesKernelIterators = kernelIterators == .auto
    return request
  }
}

enum IteratorUse: String, ExpressibleByArgument {
  case auto, never
}

/// A dump as it was asked for.
struct DumpRequest: Request {
  var common = CommonValues()
  var options = DumpOptions()

  func run() throws {
    try Guarded.run {
      do {
        try dump()
        return 0
      } catch let code as ExitCode {
        return code.rawValue
      } catch {
        Output.write("swift-restore: \(error)\n", to: 2)
        return 1
      }
    }
  }

  private func dump() throws {
    let output = try Output(common, makesFolder: true)
    try output.reporting {
      var options = options
      options.workDirectory = common.workDir
      let (statistics, warnings) = try Dump.run(options, images: common.images)
      output.warn(warnings)
      output.show(statistics)
    }
  }
}

/// A number of bytes as people write it: 1048576, 1024K, 1M.
struct ByteCount: ExpressibleByArgument, CustomStringConvertible {
  var bytes: UInt64

  init(bytes: UInt64) { self.bytes = bytes }

  init?(argument: String) {
    let units: [Character: UInt64] = ["K": 1 << 10, "M": 1 << 20, "G": 1 << 30]
    let unit = argument.last.flatMap { units[Character($0.uppercased())] }
    guard let number = UInt64(unit == nil ? argument : String(argument.dropLast())) else { return nil }
    let (bytes, overflow) = number.multipliedReportingOverflow(by: unit ?? 1)
    if overflow { return nil }
    self.bytes = bytes
  }

  var description: String { bytes % (1 << 20) == 0 ? "\(bytes >> 20)M" : "\(bytes)" }
}
