// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .treatAllWarnings(as: .error),
  .enableExperimentalFeature("Lifetimes"),
]

let system: Target.Dependency = .product(name: "SystemPackage", package: "swift-system")

let package = Package(
  name: "swift-restore",
  products: [.executable(name: "swift-restore", targets: ["swift-restore"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
    .package(url: "https://github.com/apple/swift-system", from: "1.8.0"),
  ],
  targets: [
    // The command line: one file per subcommand.
    .executableTarget(
      name: "swift-restore",
      dependencies: [
        "Dump", "Restore", "Features", "Resources", "ProcessTree", "Checkpoint", "Tracee", "Linux", system,
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: strict),

    // Spoiled image sets for the reader and the planner: scripts/fuzz.
    .executableTarget(
      name: "fuzz-images", dependencies: ["Restore", "Resources", "ProcessTree", "Linux", "CLinux", system],
      swiftSettings: strict),

    // A live tree becomes a checkpoint; a checkpoint becomes a live tree.
    .target(
      name: "Dump",
      dependencies: ["Resources", "Tracee", "Checkpoint", "ProcessTree", "Linux", system],
      swiftSettings: strict),
    .target(
      name: "Restore",
      dependencies: ["Resources", "Tracee", "Checkpoint", "ProcessTree", "Linux", system],
      swiftSettings: strict),

    // What this kernel and these privileges allow, found out by doing it.
    .target(name: "Features", dependencies: ["Tracee", "Linux", "CLinux", system], swiftSettings: strict),

    // One file per kind of kernel object, both directions in it.
    .target(
      name: "Resources",
      dependencies: ["Tracee", "Checkpoint", "ProcessTree", "Linux", system],
      swiftSettings: strict),

    // Remote control of a task: ptrace, registers, syscall programs, the executor.
    .target(name: "Tracee", dependencies: ["Linux", "CLinux", system], swiftSettings: strict),

    // The image set: value types, reader, writer.
    .target(
      name: "Checkpoint", dependencies: ["CImages", "CProtobufC", "CXXHash", "Linux", system],
      swiftSettings: strict),

    // Pure: PIDs at every level, the fork schedule, a model of the kernel's rules.
    .target(name: "ProcessTree", swiftSettings: strict),

    // Typed syscalls and errors, /proc parsers, capabilities.
    .target(name: "Linux", dependencies: ["CLinux", "CCap", system], swiftSettings: strict),

    .target(name: "CImages", dependencies: ["CProtobufC"]),
    .target(name: "CLinux"),
    .target(name: "CXXHash"),
    .systemLibrary(
      name: "CProtobufC", pkgConfig: "libprotobuf-c", providers: [.apt(["libprotobuf-c-dev"])]),
    .systemLibrary(name: "CCap", pkgConfig: "libcap", providers: [.apt(["libcap-dev"])]),

    .testTarget(name: "ProcessTreeTests", dependencies: ["ProcessTree"], swiftSettings: strict),
    .testTarget(
      name: "CheckpointTests", dependencies: ["Checkpoint", "CImages", "CProtobufC", system],
      swiftSettings: strict),
    .testTarget(name: "LinuxTests", dependencies: ["Linux", "CLinux", system], swiftSettings: strict),
    .testTarget(
      name: "TraceeTests", dependencies: ["Tracee", "Linux", "CLinux", system], swiftSettings: strict),
    .testTarget(
      name: "ResourcesTests",
      dependencies: ["Resources", "Tracee", "Checkpoint", "Linux", "CLinux", system], swiftSettings: strict),
    .testTarget(name: "FeaturesTests", dependencies: ["Features", "Linux"], swiftSettings: strict),
    .testTarget(
      name: "CommandTests",
      dependencies: ["swift-restore", .product(name: "ArgumentParser", package: "swift-argument-parser")], swiftSettings: strict),
    .testTarget(
      name: "LiveTests", dependencies: ["ProcessTree", "Checkpoint", "Linux", "CLinux", system], exclude: ["Programs"],
      swiftSettings: strict),
  ]
)
