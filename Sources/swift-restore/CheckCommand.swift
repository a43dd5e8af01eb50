import ArgumentParser
import Features
import Linux
import Resources
import Restore

struct CheckCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "check",
    abstract: "Find out what this kernel and these privileges allow, or whether images can be restored.",
    discussion: """
      Without --images every feature that a dump or a restore uses is tried, on processes made for it. The exit \
      status is 1 if one is missing that a dump or a restore cannot do without.

      With --images the whole set is compared with its checksums, read, and its restore planned, as restore does before \
      it makes a process.
      """)

  @OptionGroup var common: CommonOptions

  @Flag(
    name: [.customShort("j"), .long], inversion: .prefixedNo,
    help: "Of images: sessions and terminals from outside of the tree are this shell's.")
  var shellJob = false

  @Option(help: "Of images: compare files with what was recorded of them, build-id (and size), filesize, or none.")
  var fileValidation: FileValidation = .buildID

  func run() throws {
    let output = try Output(common.values)
    try output.reporting {
      if let images = common.imagesDir {
        var options = RestoreOptions()
        options.shellJob = shellJob
        options.validateFiles = fileValidation != .none
        options.validateBuildIDs = fileValidation == .buildID
        try Plan.verify(images: images)
        _ = try Plan(options, images: images)
        output.show(.object([("images", .string(images)), ("restorable", .bool(true))])) { "\(images): ok\n" }
      } else {
        let report = try FeatureReport()
        output.show(report.json) { report.lines }
        if let failure = report.failure {
          // One JSON document is enough: it has said it.
          if common.json { throw ExitCode(1) }
          throw failure
        }
      }
    }
  }
}
