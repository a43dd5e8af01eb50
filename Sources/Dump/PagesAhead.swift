import CLinux
import Checkpoint
import Glibc
import Linux
import Resources
import SystemPackage

/// An image of a task's pages, and how many bytes of it are there already.
struct PagesImage: ~Copyable {
  let file: Descriptor
  let done: UInt64
}

/// The first pages of a lone task, copied while its mappings are being read: the kernel takes long to describe many of them, and the
/// companion has time meanwhile.
///
/// The file has no name. It becomes the image if the pages that are to be written turn out to begin with those that are in it; if not, or
/// if the dump comes to nothing, it is gone. The task has stopped, so that what it has stays as it is; only pages that it has for itself
/// are read (``Pages/areExclusive(_:_:)``).
final class PagesAhead {
  private let folder: Int32
  private var image: Descriptor?
  /// Ranges that are in it, one behind the other.
  private var written: [Range<UInt64>] = []
  private var byteCount: UInt64 = 0
  /// Up to where the memory has been looked at, and the first region and mapping that do not end below.
  private var position: UInt64 = 0
  private var nextRegion = 0
  private var nextMapping = 0
  /// What lies behind is left to the task.
  private var isOver = false
  /// Whether the tree is known to be one task; there is one object for all.
  var isAllowed = false

  /// Half a millisecond's work; the tracer may be waiting for the companion to parse.
  private static let stepBytes: UInt64 = 512 << 10

  /// `folder`: where the images go.
  init(in folder: Int32) { self.folder = folder }

  /// Copies some more pages of what is known of the task so far, in ascending order. `false`: there is nothing to copy yet.
  func step(_ scan: PageScan, _ mappings: [Mapping], of pid: Int32) -> Bool {
    if !isAllowed || isOver { return false }
    let parts = nextParts(scan, mappings)
    guard let last = parts.last else { return false }
    let end = last.offset + UInt64(last.range.count)
    guard let file = openImage(), scan.areExclusive(parts.map(\.range)) else {
      isOver = true
      return false
    }
    guard ImageWindow.prepare(file, length: end), ImageWindow.copy(parts, of: pid, to: file) else {
      // What cannot be copied now is tried once more by the task, which says why.
      isOver = true
      ftruncate(file, Int(byteCount))
      return false
    }
    for part in parts { Self.append(part.range, to: &written) }
    byteCount = end
    return true
  }

  private func nextParts(_ scan: PageScan, _ mappings: [Mapping]) -> [Pages.Placed] {
    var parts: [Pages.Placed] = []
    var length: UInt64 = 0
    while length < Self.stepBytes, nextRegion < scan.found.count, nextMapping < mappings.count {
      // The mapping is looked at where it is: a copy of it would count references.
      let (from, to) = (mappings[nextMapping].start, mappings[nextMapping].end)
      // What the kernel maps by itself has pages that the scan does not find.
      if mappings[nextMapping].name.starts(with: "[v".utf8) {
        isOver = true
        break
      }
      let region = scan.found[nextRegion]
      let start = max(position, region.start)
      if start >= region.end {
        nextRegion += 1
        continue
      }
      if to <= start {
        nextMapping += 1
        continue
      }
      let first = max(start, from)
      let end = min(region.end, to, first + Self.stepBytes - length)
      if first < end, !mappings[nextMapping].isShared, !scan.isGuard(region) {
        // Only the tracer can read what the task itself cannot (Pages.inaccessible).
        if mappings[nextMapping].protection & UInt32(PROT_READ) == 0 {
          isOver = true
          break
        }
        parts.append((first..<end, byteCount + length))
        length += end - first
      }
      position = max(first, end)
    }
    return parts
  }

  private func openImage() -> Int32? {
    // open(2): O_TMPFILE
    if image == nil, ImageWindow.isWorthwhile(folder) {
      image = try? Descriptor.open(at: folder, ".", O_RDWR | O_DIRECTORY | 0o20000000, mode: 0o600)
    }
    return image?.rawValue
  }

  /// The file under the name of an image that is to hold these pages; `nil`: it does not begin with them, or there is none.
  func give(_ name: String, _ pages: Pages) -> PagesImage? {
    defer {
      written = []
      image = nil
    }
    guard byteCount > 0, isBeginning(of: pages.ranges), let file = image.take() else { return nil }
    let path = "/proc/self/fd/\(file.rawValue)"
    if linkat(AT_FDCWD, path, folder, name, AT_SYMLINK_FOLLOW) != 0 {
      guard errno == EEXIST, unlinkat(folder, name, 0) == 0, linkat(AT_FDCWD, path, folder, name, AT_SYMLINK_FOLLOW) == 0 else {
        return nil
      }
    }
    return PagesImage(file: file, done: byteCount)
  }

  /// Both are looked at where they are: of very many ranges a copy takes much memory.
  private func isBeginning(of ranges: [Range<UInt64>]) -> Bool {
    var (next, done) = (0, UInt64(0))
    var position = written.first?.lowerBound
    for range in ranges where done < byteCount {
      var at = range.lowerBound
      while at < range.upperBound, done < byteCount {
        guard at == position else { return false }
        let end = min(range.upperBound, written[next].upperBound)
        done += end - at
        at = end
        if end == written[next].upperBound {
          next += 1
          position = next < written.count ? written[next].lowerBound : nil
        } else {
          position = end
        }
      }
    }
    return done == byteCount
  }

  /// Neighbours become one.
  private static func append(_ range: Range<UInt64>, to list: inout [Range<UInt64>]) {
    if let last = list.last, last.upperBound == range.lowerBound {
      list[list.count - 1] = last.lowerBound..<range.upperBound
    } else {
      list.append(range)
    }
  }
}
