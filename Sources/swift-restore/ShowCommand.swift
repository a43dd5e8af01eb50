import ArgumentParser
import Checkpoint
import Linux
import Resources
import Restore
import SystemPackage

struct ShowCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show", abstract: "Print the process tree that image files hold.")

  @Argument(help: "The folder of the image files, as with --images.")
  var folder: String?

  @OptionGroup var common: CommonOptions

  @Flag(inversion: .prefixedNo, help: "Print the steps that make the tree again instead: the fork schedule.")
  var schedule = false

  @Flag(
    name: [.customShort("j"), .long], inversion: .prefixedNo,
    help: "For the schedule: sessions from outside of the tree are this shell's.")
  var shellJob = false

  func validate() throws {
    guard (folder == nil) != (common.imagesDir == nil) else {
      throw ValidationError("Give the folder of the images, once.")
    }
  }

  func run() throws {
    let output = try Output(common.values)
    let folder = folder ?? common.images
    try output.reporting {
      if schedule {
        var options = RestoreOptions()
        options.shellJob = shellJob
        let (schedule, nanoseconds) = try Plan.schedule(options, images: folder)
        let steps = schedule.steps.map(\.description)
        output.show(
          .object([("steps", .array(steps.map { .string($0) })), ("scheduling_time", .number(nanoseconds / 1000))])
        ) {
          steps.map { $0 + "\n" }.joined()
            + (common.displayStats ? "Scheduling time, µs: \(nanoseconds / 1000)\n" : "")
        }
      } else {
        let summary = try asFailure { () throws(ImageError) in
          try CheckpointSummary(try ImageDirectory(opening: FilePath(folder)))
        }
        output.show(summary.json) { summary.lines }
      }
    }
  }
}
