import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage
import Tracee

/// Copies pages from the image into memory of a task that is registered with a userfaultfd of its (man 2 UFFDIO_COPY), window by window:
/// whoever is ready takes the next one.
final class PagesCopy: @unchecked Sendable {
  /// Bytes of the image that a thread has mapped at a time; they count as the tool's memory.
  private static let window: UInt64 = 2 << 20

  private let faults: Int32
  private let image: Descriptor
  private let name: String
  private let parts: [Pages.Placed]
  private let first: UInt64
  private let count: UInt32
  private let fault: FaultInjection.Fault?
  /// How many windows have been taken. A word of the heap, for both threads to see.
  private let taken = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)

  /// `nil` where the image cannot be mapped, as on some file systems.
  ///
  /// - `parts`: ascending, in the image too
  init?(of name: String, _ parts: [Pages.Placed], into faults: Int32, _ restore: RestoreContext) {
    let folder = restore.directory.descriptor.rawValue
    guard let image = try? Descriptor.open(at: folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC),
      (try? Window(of: image.rawValue)) != nil
    else { return nil }
    self.image = image
    self.faults = faults
    self.name = name
    self.parts = parts
    taken.initialize(to: 0)
    first = (parts.first?.offset ?? 0) / Self.window
    let end = parts.last.map { $0.offset + UInt64($0.range.count) } ?? 0
    count = UInt32((end + Self.window - 1) / Self.window - first)
    fault = FaultInjection.next()
  }

  deinit { taken.deallocate() }

  /// Copies windows until all are taken; `whenFull` is told below which address nothing is left, `meanwhile` is done every now and then.
  func takePart(
    whenFull: (UInt64) throws(Failure) -> Void = { _ in }, meanwhile: () throws(Failure) -> Void = {}
  ) throws(Failure) {
    let place = try about("mapping \(name)") { () throws(Errno) in try Window(of: image.rawValue) }
    do throws(Failure) {
      while true {
        let next = cl_add32(taken, 1)
        if next >= count { return }
        if let fault, next == min(UInt32(clamping: fault.call), count - 1) { throw Failure("filling its memory", fault.errno) }
        let start = (first + UInt64(next)) * Self.window
        let parts = parts(in: start..<(start + Self.window))
        guard let last = parts.last else { continue }
        try about("mapping \(name)") { () throws(Errno) in try place.move(to: start, of: image.rawValue) }
        for (index, part) in parts.enumerated() {
          if index % 16 == 0 { try meanwhile() }
          try copy(part, from: place.address + (part.offset - start))
        }
        try whenFull(last.range.upperBound)
      }
    } catch {
      // The other takes nothing more either.
      cl_store32(taken, count)
      throw error
    }
  }

  /// What is to be copied from some bytes of the image.
  private func parts(in bytes: Range<UInt64>) -> [Pages.Placed] {
    var (low, high) = (0, parts.count)
    while low < high {
      let middle = (low + high) / 2
      if parts[middle].offset + UInt64(parts[middle].range.count) <= bytes.lowerBound { low = middle + 1 } else { high = middle }
    }
    return parts[low...].prefix { $0.offset < bytes.upperBound }.map { part in
      let from = max(part.offset, bytes.lowerBound)
      let end = min(part.offset + UInt64(part.range.count), bytes.upperBound)
      let start = part.range.lowerBound + (from - part.offset)
      return (start..<(start + (end - from)), from)
    }
  }

  /// UFFDIO_COPY (linux/userfaultfd.h)
  private static let copyRequest = 0xc028_aa03

  private func copy(_ part: Pages.Placed, from source: UInt64) throws(Failure) {
    let length = UInt64(part.range.count)
    var done: UInt64 = 0
    while done < length {
      // struct uffdio_copy: where to, where from, length, UFFDIO_COPY_MODE_DONTWAKE, how much came
      var arguments: (UInt64, UInt64, UInt64, UInt64, Int64) = (part.range.lowerBound + done, source + done, length - done, 1, 0)
      let result = withUnsafeMutablePointer(to: &arguments) {
        cl_syscall(Int(__NR_ioctl), Int(faults), Self.copyRequest, Int(bitPattern: $0), 0, 0, 0)
      }
      if result == 0 { return }
      guard result == -Int(EAGAIN) else {
        throw failure(Errno(rawValue: Int32(-result)), at: part.range.lowerBound + done, part.offset + done)
      }
      done += UInt64(max(arguments.4, 0))
    }
  }

  private func failure(_ error: Errno, at address: UInt64, _ offset: UInt64) -> Failure {
    switch error {
    case .noSuchProcess:
      Failure("it died while it was being restored: UFFDIO_COPY", error, advice: "Was it killed, or is memory short?")
    case .badAddress:
      Failure(
        "\(name) cannot be read at byte \(offset): UFFDIO_COPY", error,
        advice: "The image is damaged, or was cut short just now; restore from another copy.")
    default: Failure("filling its memory at 0x\(String(address, radix: 16)): UFFDIO_COPY", error)
    }
  }

  /// A part of an image in this process's memory. What lies behind the end of the file cannot be read.
  private struct Window: ~Copyable {
    let address: UInt64

    init(of file: Int32) throws(Errno) {
      address = UInt64(try syscall(__NR_mmap, 0, Int(PagesCopy.window), Int(PROT_READ), Int(MAP_PRIVATE), Int(file), 0))
    }

    deinit { _ = cl_syscall(Int(__NR_munmap), Int(address), Int(PagesCopy.window), 0, 0, 0, 0) }

    func move(to offset: UInt64, of file: Int32) throws(Errno) {
      // 0x8000: MAP_POPULATE
      let flags = Int(MAP_PRIVATE) | Int(MAP_FIXED) | 0x8000
      _ = try syscall(__NR_mmap, Int(address), Int(PagesCopy.window), Int(PROT_READ), flags, Int(file), Int(offset))
    }
  }
}
