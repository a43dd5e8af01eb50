import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// The mounts of the tree's namespaces under restore, each held by a descriptor once it is made.
///
/// A new namespace begins as a copy of the tool's. Where the recorded one is a relative of that, with the same root, what both have
/// stays, even if it lies hidden below other mounts; the rest goes, and what is missing is made. Otherwise all is made from the
/// recorded root on, which then takes the place of the copy's (man 2 pivot_root).
public final class RestoredMounts {
  private var entries: [UInt32: [MntEntry]] = [:]
  private var byID: [Int32: MntEntry] = [:]
  /// What is mounted on a mount.
  private var onTop: [Int32: [MntEntry]] = [:]
  /// Mounts that have been made, by the recorded ID.
  private var descriptors: [Int32: Int32] = [:]
  /// Mounts that stayed from the tool's namespace and lie hidden.
  private var hidden: Set<Int32> = []
  /// Mounts that are not the tree's.
  private var outer: Set<Int32> = []
  /// What lies below a mount that was put there, opened before, by the mount's ID.
  private var covered: [Int32: Int32] = [:]
  /// Mounts that are nowhere yet.
  private var prepared: [Int32: Int32] = [:]
  /// File systems of the tree, each as a mount of all of it that is nowhere, by device.
  private var fileSystems: [UInt32: Int32] = [:]

  /// `/proc`, which need not be there in another namespace.
  private let proc: Descriptor

  public init() throws(Errno) { proc = try Descriptor.open("/proc", O_PATH | O_DIRECTORY) }

  deinit {
    // What was prepared is among the descriptors, once it is in its place.
    let mounts = Set(descriptors.values).union(prepared.values)
    for fd in Array(mounts) + Array(fileSystems.values) + Array(covered.values) {
      _ = cl_syscall(Int(__NR_close), Int(fd), 0, 0, 0, 0, 0)
    }
  }

  // MARK: Plan

  /// Takes the mounts of a namespace; parents come before what is mounted on them.
  func add(_ mounts: [MntEntry], of namespace: UInt32, _ restore: RestoreContext) throws(Failure) {
    let image = "mountpoints-\(namespace).img"
    var mounts = mounts
    if mounts.allSatisfy({ $0.isOuter == nil }) {
      // It records what was mounted last first.
      mounts.reverse()
      try ForeignMounts.explain(&mounts, of: namespace, own: try list(), restore)
    }
    // In a PID namespace that is made for the tree, the tool's proc would show none of it.
    for i in mounts.indices where restore.options.newPIDNamespace && mounts[i].isOuter == true && mounts[i].type == "proc" {
      mounts[i].isOuter = false
      mounts[i].source = Array("proc".utf8)
      mounts[i].pidNsId = restore.namespaces.own.pidNsId
    }
    var left = mounts
    var ordered: [MntEntry] = []
    var known: Set<UInt32> = []
    for entry in mounts {
      let place = "\(image): mount \(entry.mntId)"
      guard entry.mountpoint.first == UInt8(ascii: "/"), byID.updateValue(entry, forKey: entry.number) == nil else {
        throw Failure("\(place) has no absolute path, or is there twice")
      }
      if entry.isOuter ?? false { outer.insert(entry.number) }
      guard outer.contains(entry.number) || OwnFileSystem(type: entry.type) != nil else {
        throw Failure("\(place): a file system of the type \(entry.type) at \(entry.mountpoint.text) cannot be made again (mount)")
      }
    }
    let ids = Set(mounts.map(\.mntId))
    while !left.isEmpty {
      let ready = left.filter { known.contains($0.parentMntId) || !ids.contains($0.parentMntId) }
      guard !ready.isEmpty else { throw Failure("\(image): mounts that lie on each other in a circle") }
      ordered += ready
      known.formUnion(ready.map(\.mntId))
      left.removeAll { known.contains($0.mntId) }
    }
    guard let root = ordered.first, !ordered.dropFirst().contains(where: { !ids.contains($0.parentMntId) }),
      root.mountpoint == [UInt8(ascii: "/")]
    else { throw Failure("\(image): there is not exactly one mount that is the root of the others") }
    entries[namespace] = ordered
    for entry in ordered.dropFirst() { onTop[entry.parent, default: []].append(entry) }
  }

  // MARK: File systems

  /// Makes the tree's own file systems that a namespace needs, but for those that only a task of the tree can make.
  func makeFileSystems(of namespace: UInt32, _ restore: RestoreContext) throws(Failure) {
    for entry in entries[namespace] ?? [] where !outer.contains(entry.number) && fileSystems[entry.rootDev] == nil {
      guard let kind = OwnFileSystem(type: entry.type), kind != .proc else { continue }
      fileSystems[entry.rootDev] = try about("the \(kind) at \(entry.mountpoint.text)") { () throws(Failure) in
        guard kind == .mqueue, let id = entry.ipcNsId else { return try kind.make(entry, restore).release() }
        let ipc = restore.namespaces.descriptor(of: IPCNamespace.self, id)
        return try Visit.run(ipc, IPCNamespace.flag) { () throws(Failure) in try kind.make(entry, restore).release() }
      }
    }
  }

  // MARK: Build

  /// Builds the mounts of a namespace, in which the tracer is; it is a copy of the tracer's own.
  func build(_ namespace: UInt32) throws(Failure) {
    guard let recorded = entries[namespace], let root = recorded.first else { return }
    let copied = try list()
    if let top = copied.first(where: { $0.point == root.mountpoint }), isTwin(root, top) {
      let kept = twins(of: recorded, in: copied, from: top)
      for entry in recorded where kept[entry.number] == nil { try prepare(entry) }
      try remove(copied, but: kept)
      try hold(recorded, kept)
      try attach(recorded)
    } else {
      for entry in recorded { try prepare(entry) }
      try attach(recorded)
      try pivot(to: root)
    }
  }

  /// The mounts that the tracer sees where it is.
  private func list() throws(Failure) -> [Mount] {
    let buffer = ReadBuffer()
    return try about("reading its mounts") { () throws(Errno) in
      let file = try Descriptor.open(at: proc.rawValue, "thread-self/mountinfo")
      return try withExtendedLifetime(buffer) { () throws(Errno) in Mount.parse(try buffer.readAll(file.rawValue)) }
    }
  }

  private func isTwin(_ entry: MntEntry, _ mount: Mount) -> Bool {
    outer.contains(entry.number) && entry.mountpoint == mount.point && entry.root == mount.root
      && entry.type == mount.type.text
  }

  /// What recorded mounts have in common with those of the copy, by recorded ID.
  private func twins(of recorded: [MntEntry], in copied: [Mount], from top: Mount) -> [Int32: Mount] {
    var kept: [Int32: Mount] = [:]
    var used: Set<Int32> = [top.id]
    for (i, entry) in recorded.enumerated() {
      if i == 0 {
        kept[entry.number] = top
      } else if let parent = kept[entry.parent],
        let twin = copied.first(where: { $0.parent == parent.id && !used.contains($0.id) && isTwin(entry, $0) })
      {
        kept[entry.number] = twin
        used.insert(twin.id)
      }
    }
    return kept
  }

  /// Unmounts the rest of the copy, what was mounted last first.
  private func remove(_ copied: [Mount], but kept: [Int32: Mount]) throws(Failure) {
    let ids = Set(kept.values.map(\.id))
    for mount in copied.reversed() where !ids.contains(mount.id) {
      try about("unmounting \(mount.point.text)") { () throws(Errno) in
        guard try mountID(at: AT_FDCWD, mount.point.text, followLinks: false) == mount.id else { throw .resourceBusy }
        try syscall(__NR_umount2, path: mount.point.text, 2 | 8 /* MNT_DETACH | UMOUNT_NOFOLLOW */)
      }
    }
  }

  /// Opens what has stayed, and gives it the recorded flags.
  private func hold(_ recorded: [MntEntry], _ kept: [Int32: Mount]) throws(Failure) {
    for entry in recorded {
      guard let mount = kept[entry.number] else { continue }
      try about("the mount at \(mount.point.text)") { () throws(Errno) in
        let place = try? Descriptor.open(mount.point.text, O_PATH | O_NOFOLLOW)
        guard let place, try mountID(at: place.rawValue) == mount.id else {
          hidden.insert(entry.number)
          return
        }
        if mount.flags != entry.mountFlags || entry.isUnbindable {
          try FileSystem.setAttributes(of: place.rawValue, flags: entry.mountFlags, propagation: entry.propagation)
        }
        descriptors[entry.number] = place.release()
      }
    }
  }

  /// Makes a mount that is nowhere yet, unless its file system is still to come.
  private func prepare(_ entry: MntEntry) throws(Failure) {
    guard prepared[entry.number] == nil else { return }
    try about("the mount of \(entry.type) at \(entry.mountpoint.text)") { () throws(Failure) in
      guard let mount = try source(entry) else { return }
      try about("mount_setattr") { () throws(Errno) in
        try FileSystem.setAttributes(of: mount, flags: entry.mountFlags, propagation: entry.propagation)
      }
      prepared[entry.number] = mount
    }
  }

  private func source(_ entry: MntEntry) throws(Failure) -> Int32? {
    if outer.contains(entry.number) {
      guard let path = entry.outerPath else { throw Failure("it was hidden at the dump, and is not here now (mount)") }
      return try about(
        "copying the mount of \(path.text)", advice: "The tree sees it as the machine had it at the dump; mount it again."
      ) { () throws(Errno) in
        let place = try Descriptor.open(path, O_PATH | O_NOFOLLOW, resolving: .noLinks)
        return try FileSystem.copy(at: place.rawValue).release()
      }
    }
    guard let whole = fileSystems[entry.rootDev] else { return nil }
    let isOnly = entries.values.joined().count { $0.rootDev == entry.rootDev } == 1
    return try about("copying a mount", advice: "A file system that is mounted in several places needs Linux 6.15.") {
      () throws(Errno) in
      let path = entry.root.dropFirst()
      if isOnly && path.isEmpty { return try FileSystem.place(in: whole, []).release() }
      return try FileSystem.copy(at: whole, Array(path).text).release()
    }
  }

  /// Puts mounts where they belong, as far as they are made and what they lie on is there.
  private func attach(_ recorded: [MntEntry]) throws(Failure) {
    for entry in recorded where descriptors[entry.number] == nil {
      guard let mount = prepared[entry.number] else { continue }
      try about("mounting \(entry.type) at \(entry.mountpoint.text)") { () throws(Failure) in
        guard let parent = byID[entry.parent] else {
          try about("move_mount") { () throws(Errno) in
            let old = try Descriptor.open("/", O_PATH | O_DIRECTORY)
            try FileSystem.attach(mount, to: old.rawValue)
          }
          descriptors[entry.number] = mount
          return
        }
        guard let directory = descriptors[parent.number] else {
          if hidden.contains(parent.number) { throw Failure("it lies on a mount that is hidden (mount)") }
          return
        }
        let path = Mount.remainder(of: entry.mountpoint, below: parent.mountpoint) ?? []
        try about("move_mount") { () throws(Errno) in
          let place = try FileSystem.place(in: directory, path)
          try FileSystem.attach(mount, to: place.rawValue)
          covered[entry.number] = place.release()
        }
        descriptors[entry.number] = mount
      }
    }
  }

  /// The recorded root takes the place of the copy's, which goes with all that is mounted in it.
  private func pivot(to root: MntEntry) throws(Failure) {
    try about("pivot_root") { () throws(Errno) in
      try syscall(__NR_fchdir, Int(descriptors[root.number] ?? -1))
      let result = ".".withCString {
        cl_syscall(Int(__NR_pivot_root), Int(bitPattern: $0), Int(bitPattern: $0), 0, 0, 0, 0)
      }
      if result < 0 { throw Errno(rawValue: Int32(-result)) }
      try syscall(__NR_umount2, path: ".", 2 /* MNT_DETACH */)
    }
  }

  // MARK: Later

  /// The PID namespaces whose proc is to be mounted by a task that lives there, with an entry of the mount for each.
  public func missingProc() -> [(pidNamespace: UInt32, entry: MntEntry)] {
    var known: Set<UInt32> = []
    return entries.values.joined().filter {
      !outer.contains($0.number) && $0.type == OwnFileSystem.proc.rawValue && fileSystems[$0.rootDev] == nil
        && known.insert($0.rootDev).inserted
    }.map { ($0.pidNsId ?? 0, $0) }
  }

  /// Takes the mount of a proc, as a descriptor of this process, to wherever it belongs.
  public func takeProc(_ mount: consuming Descriptor, for entry: MntEntry, _ restore: RestoreContext) throws(Failure) {
    fileSystems[entry.rootDev] = mount.release()
    for (namespace, recorded) in entries where recorded.contains(where: { $0.rootDev == entry.rootDev }) {
      let descriptor = restore.namespaces.descriptor(of: MountNamespace.self, namespace)
      try Visit.run(descriptor, MountNamespace.flag) { () throws(Failure) in
        for entry in recorded where descriptors[entry.number] == nil && !hidden.contains(entry.number) {
          try prepare(entry)
        }
        try attach(recorded)
      }
    }
  }

  /// Checks that a namespace, in which the tracer is, came out as it was recorded.
  func verify(_ namespace: UInt32) throws(Failure) {
    func line(_ point: [UInt8], _ root: [UInt8], _ type: String, _ flags: UInt32) -> String {
      "\(type) at \(point.text), \(root.text) of it, flags \(flags)"
    }
    var left: [String: Int] = [:]
    for mount in try list() { left[line(mount.point, mount.root, mount.type.text, mount.flags), default: 0] += 1 }
    for entry in entries[namespace] ?? [] {
      let wanted = line(entry.mountpoint, entry.root, entry.type, entry.mountFlags)
      guard let count = left[wanted], count > 0 else { throw Failure("there is no mount of \(wanted)") }
      left[wanted] = count - 1
    }
    if let extra = left.first(where: { $0.value > 0 }) { throw Failure("there is a mount too many: \(extra.key)") }
  }

  // MARK: Files

  /// A path that leads to what `name` is in the namespace of a mount, through that very mount; `nil` if the mount is not of the tree.
  func path(_ name: [UInt8], through mount: Int32) throws(Failure) -> RecordedPath? {
    guard let entry = byID[mount] else { return nil }
    let above = above(name, on: mount)
    let directory = above.map { covered[$0.number] } ?? descriptors[mount]
    guard let directory, let rest = Mount.remainder(of: name, below: above?.mountpoint ?? entry.mountpoint) else {
      throw Failure("\(name.text): the mount of \(entry.type) at \(entry.mountpoint.text) cannot be reached (mount)")
    }
    return RecordedPath(directory: directory, path: rest)
  }

  /// The lowest of the mounts that hide a path on another mount.
  private func above(_ name: [UInt8], on mount: Int32) -> MntEntry? {
    (onTop[mount] ?? []).filter { Mount.remainder(of: name, below: $0.mountpoint) != nil }
      .max { $0.mountpoint.count < $1.mountpoint.count }
  }

  /// The same before anything is made: where this tool has the file; `nil` if it will only be there with the file system.
  func outerPath(_ name: [UInt8], through mount: Int32) -> [UInt8]? {
    guard let entry = byID[mount], outer.contains(mount), above(name, on: mount) == nil, let outer = entry.outerPath,
      let rest = Mount.remainder(of: name, below: entry.mountpoint)
    else { return nil }
    return outer + (rest.isEmpty ? [] : [UInt8(ascii: "/")] + rest)
  }

  /// Whether a mount is one of the tree's namespaces.
  func contains(_ mount: Int32) -> Bool { byID[mount] != nil }

  /// The namespace that a mount is in; `nil` if that is not the tree's.
  func namespace(of mount: Int32) -> UInt32? {
    entries.first { $0.value.contains { $0.number == mount } }?.key
  }
}

extension MntEntry {
  fileprivate var number: Int32 { Int32(bitPattern: mntId) }
  fileprivate var parent: Int32 { Int32(bitPattern: parentMntId) }
  fileprivate var isUnbindable: Bool { flags & 1 << 17 != 0 }
  /// MS_UNBINDABLE or MS_PRIVATE.
  fileprivate var propagation: UInt32 { isUnbindable ? 1 << 17 : 1 << 18 }
}
