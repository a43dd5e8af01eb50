// Reads and plans spoiled image sets: fuzz-images COUNT FIRST-SEED FOLDER...
//
// `every` or `every-verified` in the place of the two numbers tries every small damage (Damage): with their checksums compared, all must
// be refused, and without, those that can be seen.
//
// Each input follows from its seed. It is tried in a child process, so that a crash (a trap of Swift's too), a hang of ten seconds or
// more than 256 MiB of memory is told with its seed, and the input kept. So is an error that names no image or gives no advice, but for
// the input. Exit status 1 if there was any.
import CLinux
import Glibc
import Linux
import Resources
import ProcessTree
import Restore
import SystemPackage

/// Not by `print`, whose buffer a child would write again.
func say(_ text: String) {
  let line = Array((text + "\n").utf8)
  _ = line.withUnsafeBytes { cl_syscall(Int(__NR_write), 1, Int(bitPattern: $0.baseAddress), $0.count, 0, 0, 0) }
}

struct Sample {
  let folder: String
  var files: [(name: String, bytes: [UInt8])] = []

  init(_ folder: String) throws(Failure) {
    self.folder = folder
    guard let listing = opendir(folder) else { throw Failure(folder, Errno(rawValue: errno)) }
    defer { closedir(listing) }
    while let entry = readdir(listing) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      guard name.hasSuffix(".img") else { continue }
      let buffer = ReadBuffer()
      let bytes = try about(name) { () throws(Errno) in
        let file = try Descriptor.open(folder + "/" + name)
        return [UInt8](try buffer.readAll(file.rawValue))
      }
      files.append((name, bytes))
    }
    files.sort { $0.name < $1.name }
  }
}

func write(_ bytes: [UInt8]?, to path: String) throws(Failure) {
  guard let bytes else {
    unlink(path)
    return
  }
  try about(path) { () throws(Errno) in
    let file = try Descriptor.open(path, O_WRONLY | O_CREAT | O_TRUNC, mode: 0o600)
    let written = bytes.withUnsafeBytes {
      cl_syscall(Int(__NR_write), Int(file.rawValue), Int(bitPattern: $0.baseAddress), $0.count, 0, 0, 0)
    }
    guard written == bytes.count else { throw .ioError }
  }
}

enum Mode {
  case random
  case every([Damage], verified: Bool)
}

/// Which files of which sample a seed spoils, and how.
func input(_ seed: UInt64, _ samples: [Sample], _ mode: Mode) -> (sample: Int, files: [(name: String, bytes: [UInt8]?)]) {
  if case .every(let damages, _) = mode {
    let damage = damages[Int(seed)]
    return (damage.sample, [damage.applied(to: samples)])
  }
  var mutation = Mutation(random: SplitMix64(seed: seed))
  let sample = Int.random(in: 0..<samples.count, using: &mutation.random)
  let images = samples[sample].files.filter { !$0.name.hasPrefix("pages-") }
  var files: [(name: String, bytes: [UInt8]?)] = []
  for _ in 0...Int.random(in: 0..<2, using: &mutation.random) {
    guard let file = images.randomElement(using: &mutation.random), !files.contains(where: { $0.name == file.name }) else { continue }
    files.append((file.name, mutation.apply(to: file.bytes, headerWords: file.name == "inventory.img" ? 1 : 2)))
  }
  return (sample, files)
}

/// Has a hang end the process: by the processor's time, which no other load makes longer, or by six times as much of the clock's.
func watch(seconds: Int) {
  var time = itimerval()
  time.it_value.tv_sec = seconds
  setitimer(2 /* ITIMER_PROF */, &time, nil)
  alarm(UInt32(6 * seconds))
}

/// Tries inputs until the last, or until one ends the process. `current` is shared with the parent.
func work(_ seeds: Range<UInt64>, _ samples: [Sample], _ mode: Mode, _ scratch: String, _ current: UnsafeMutablePointer<UInt64>)
  throws(Failure)
{
  var limit = rlimit(rlim_cur: 0, rlim_max: 0)
  let buffer = ReadBuffer()
  let pages = try about("statm") { () throws(Errno) in
    var cursor = ByteCursor(try ProcDirectory(pid: getpid()).read("statm", buffer))
    return cursor.decimal()
  }
  limit.rlim_cur = UInt(truncatingIfNeeded: pages) * UInt(pageSize) + 256 << 20
  limit.rlim_max = limit.rlim_cur
  setrlimit(__rlimit_resource_t(9) /* RLIMIT_AS */, &limit)
  var options = RestoreOptions()
  options.verify = false
  if case .every(_, true) = mode { options.verify = true }
  for seed in seeds {
    current[0] = seed
    let (sample, files) = input(seed, samples, mode)
    let folder = "\(scratch)/\(sample)"
    for file in files { try write(file.bytes, to: folder + "/" + file.name) }
    options.validateFiles = seed % 2 == 0
    watch(seconds: 10)
    do throws(Failure) {
      _ = try Plan(options, images: folder)
      current[1] += 1
      if case .every(let damages, let verified) = mode {
        let damage = damages[Int(seed)]
        if verified || damage.isVisible(in: samples) {
          say("\(samples[sample].folder)/\(files[0].name): \(damage.kind): not noticed")
          current[2] += 1
        }
      }
    } catch {
      // Who reads it must know where to look, and what to do.
      if !error.cause.contains(".img") && !error.cause.hasPrefix("cannot be set back") || error.advice.isEmpty {
        say("seed \(seed): not said where, or what to do: \(error)")
        current[2] += 1
      }
    }
    watch(seconds: 0)
    for file in files {
      guard let whole = samples[sample].files.first(where: { $0.name == file.name }) else { continue }
      try write(whole.bytes, to: folder + "/" + file.name)
    }
  }
}

func run() throws(Failure) -> Int32 {
  let arguments = CommandLine.arguments
  let isExhaustive = arguments.count > 2 && arguments[1].hasPrefix("every")
  guard isExhaustive || arguments.count > 3, var count = UInt64(isExhaustive ? "0" : arguments[1]),
    let first = UInt64(isExhaustive ? "0" : arguments[2])
  else {
    throw Failure("usage: fuzz-images COUNT FIRST-SEED FOLDER..., fuzz-images every|every-verified FOLDER...")
  }
  var samples: [Sample] = []
  for folder in arguments.dropFirst(isExhaustive ? 2 : 3) { samples.append(try Sample(folder)) }
  var mode = Mode.random
  if isExhaustive {
    let damages = Damage.all(samples)
    count = UInt64(damages.count)
    mode = .every(damages, verified: arguments[1] == "every-verified")
  }
  let scratch = "/dev/shm/fuzz-images.\(getpid())"
  mkdir(scratch, 0o700)
  func fill() throws(Failure) {
    for (i, sample) in samples.enumerated() {
      mkdir("\(scratch)/\(i)", 0o700)
      for file in sample.files { try write(file.bytes, to: "\(scratch)/\(i)/\(file.name)") }
    }
  }
  try fill()
  // A sample that is refused as it is finds little.
  for (i, sample) in samples.enumerated() {
    var options = RestoreOptions()
    (options.validateFiles, options.verify) = (false, false)
    do throws(Failure) { _ = try Plan(options, images: "\(scratch)/\(i)") } catch { say("\(sample.folder): \(error.cause)") }
  }
  let shared = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
  guard let current = shared?.assumingMemoryBound(to: UInt64.self) else { throw Failure("mmap", Errno(rawValue: errno)) }
  var next = first
  var bad = 0
  while next < first + count {
    let child = try about("clone") { () throws(Errno) in Int32(try syscall(__NR_clone, Int(SIGCHLD))) }
    if child == 0 {
      do throws(Failure) {
        try work(next..<(first + count), samples, mode, scratch, current)
        exit(0)
      } catch {
        say("seed \(current[0]): \(error)")
        exit(3)
      }
    }
    var status: Int32 = 0
    waitpid(child, &status, 0)
    if status == 0 { break }
    bad += 1
    let kept = "/tmp/fuzz-images.\(current[0])"
    say("seed \(current[0]): ends with \(status & 0x7f == 0 ? "status \(status >> 8)" : "signal \(status & 0x7f)"); kept in \(kept)")
    let (sample, files) = input(current[0], samples, mode)
    mkdir(kept, 0o700)
    for file in samples[sample].files {
      try write(files.first { $0.name == file.name }.map(\.bytes) ?? file.bytes, to: kept + "/" + file.name)
    }
    next = current[0] + 1
    try fill()
  }
  for (i, sample) in samples.enumerated() {
    for file in sample.files { unlink("\(scratch)/\(i)/\(file.name)") }
    rmdir("\(scratch)/\(i)")
  }
  rmdir(scratch)
  say("\(count) inputs of \(samples.count) samples: \(bad) bad, \(current[2]) unclear, \(current[1]) restorable all the same")
  return bad == 0 && current[2] == 0 ? 0 : 1
}

do throws(Failure) {
  exit(try run())
} catch {
  say("fuzz-images: \(error)")
  exit(64)
}
