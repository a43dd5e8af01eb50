import ArgumentParser
import Checkpoint
import Glibc
import Linux
import Resources
import Restore

struct RestoreCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "restore", abstract: "Bring a process tree back from image files.")

  @OptionGroup var common: CommonOptions

  @Flag(
    name: [.customShort("d"), .customLong("restore-detached"), .customLong("detach")], inversion: .prefixedNo,
    help: "Return when the tree runs, instead of waiting for it and exiting with its status.")
  var detach = false

  @Flag(
    name: [.customShort("S"), .long], inversion: .prefixedNo,
    help: "Make the root a child of swift-restore's parent.")
  var restoreSibling = false

  @Flag(name: [.customShort("s"), .long], inversion: .prefixedNo, help: "Leave the tree stopped, until it gets SIGCONT.")
  var leaveStopped = false

  @Flag(
    name: [.customShort("j"), .long], inversion: .prefixedNo,
    help: "Sessions and terminals from outside of the tree are this shell's.")
  var shellJob = false

  @Option(help: "How tasks come by their PIDs: clone3, ns-last-pid (the dance), or auto.")
  var pidMethod = PIDMethod.automatic

  @Option(help: "How often to try again when another process takes a PID meanwhile.")
  var pidRetries = 16

  @Flag(
    inversion: .prefixedNo,
    help: "Restore one level deeper, in a PID namespace made for the tree, where no PID can be taken.")
  var newPidNamespace = false

  @Flag(
    inversion: .prefixedNo,
    help: "Restore without what this user's privileges do not allow to set back, such as raised limits; it is named in any case.")
  var unprivileged = false

  @Option(
    help:
      "Huge pages for memory that fills whole ones: auto, or never. Fast where the machine has huge pages at hand, slow where a hypervisor must find the memory first."
  )
  var thp = HugePages.never

  @Option(help: "Write the root's PID to this file.")
  var pidfile: String?

  @Option(help: "Compare files with what was recorded of them: build-id (and size), filesize, or none.")
  var fileValidation: FileValidation = .buildID

  @Flag(inversion: .prefixedNo, help: "Compare images with the checksums that the dump has written.")
  var verify = true

  @Flag(inversion: .prefixedNo, help: "Compare memory with its checksums too, if the dump has written them.")
  var verifyMemory = false

  func validate() throws {
    guard pidRetries >= 0 else { throw ValidationError("The number of retries goes from 0 up.") }
  }

  func run() throws { try request.run() }

  var request: RestoreRequest {
    var request = RestoreRequest(common: common.values)
    request.options.detach = detach
    request.options.sibling = restoreSibling
    request.options.leaveStopped = leaveStopped
    request.options.shellJob = shellJob
    request.options.pidfile = pidfile
    request.options.pidMethod = pidMethod
    request.options.pidRetries = pidRetries
    request.options.newPIDNamespace = newPidNamespace
    request.options.unprivileged = unprivileged
    request.options.verify = verify
    request.options.verifyMemory = verifyMemory
    request.options.transparentHugePages = thp == .auto
    request.options.validateFiles = fileValidation != .none
    request.options.validateBuildIDs = fileValidation == .buildID
    return request
  }
}

/// A restore as it was asked for.
struct RestoreRequest: Request {
  var common = CommonValues()
  var options = RestoreOptions()

  func run() throws {
    let output = try Output(common)
    var status: Int32 = 0
    try output.reporting {
      var options = options
      options.workDirectory = common.workDir
      let result = try Restore.run(options, images: common.images)
      output.warn(result.warnings)
      output.show(result.statistics, pidRetries: result.pidRetries)
      if !options.detach && !options.sibling { status = Restore.wait(result) }
    }
    // As a shell says it: the exit status, or 128 and the signal.
    let code = status & 0x7f == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f)
    if code != 0 { throw ExitCode(code) }
  }
}

extension PIDMethod: ExpressibleByArgument {}

enum HugePages: String, ExpressibleByArgument {
  case auto, never
}

enum FileValidation: String, ExpressibleByArgument {
  case buildID = "build-id"
  case fileSize = "filesize"
  case none

  /// `buildid` is CRIU's word.
  init?(argument: String) { self.init(rawValue: argument == "buildid" ? "build-id" : argument) }
}
