import CLinux
import Glibc
import Linux
import SystemPackage

/// A walk over the pages of a stopped process that are there and are not their file's (man 2 PAGEMAP_SCAN), in steps. Some may be made
/// ahead of need, by another thread: who then asks for regions gets those first.
public final class PageScan {
  private let pagemap: Int32
  private let owned: Descriptor?
  private var argument = cl_pm_scan_arg()
  /// The category of guard regions; 0 if the kernel does not know it.
  private var guardCategory = UInt64(CL_PAGE_IS_GUARD)
  private let step = UnsafeMutableBufferPointer<cl_page_region>.allocate(capacity: 512)
  /// What has been found ahead of need.
  public private(set) var found: [cl_page_region] = []

  /// Looks at a range by a process's file in /proc, which stays open.
  convenience init(_ pagemap: Int32, _ range: Range<UInt64>) { self.init(pagemap, nil, range) }

  /// Looks at all that a process has. The file is this object's.
  public convenience init(owning pagemap: consuming Descriptor) {
    self.init(pagemap.rawValue, pagemap, 0..<AddressSpace.userSpaceEnd)
  }

  private init(_ pagemap: Int32, _ owned: consuming Descriptor?, _ range: Range<UInt64>) {
    self.pagemap = pagemap
    self.owned = owned
    let file = UInt64(CL_PAGE_IS_FILE)
    let zero = UInt64(CL_PAGE_IS_PFNZERO)
    argument.size = UInt64(MemoryLayout<cl_pm_scan_arg>.size)
    argument.start = range.lowerBound
    argument.end = range.upperBound
    argument.vec = UInt64(UInt(bitPattern: step.baseAddress))
    argument.vec_len = UInt64(step.count)
    // Neither a page of the file nor the shared zero page, but there, or swapped out, or a guard.
    argument.category_inverted = file | zero
    argument.category_mask = file | zero
    wantGuards()
  }

  deinit { step.deallocate() }

  private func wantGuards() {
    argument.category_anyof_mask = UInt64(CL_PAGE_IS_PRESENT) | UInt64(CL_PAGE_IS_SWAPPED) | guardCategory
    argument.return_mask = argument.category_anyof_mask
  }

  /// Whether the kernel tells where guard regions are. Known after the first step.
  var showsGuards: Bool { guardCategory != 0 }

  public func isGuard(_ region: cl_page_region) -> Bool { region.categories & guardCategory != 0 }

  /// See ``Pages/areExclusive(_:_:)``.
  public func areExclusive(_ ranges: [Range<UInt64>]) -> Bool { Pages.areExclusive(pagemap, ranges) }

  /// Makes one step ahead of need. `false` if there was none to make.
  public func lookAhead() throws(Errno) -> Bool {
    guard argument.start < argument.end else { return false }
    found += try walk()
    return true
  }

  /// Gives out the regions in ascending order.
  func forEach(_ body: (cl_page_region) -> Void) throws(Errno) {
    for region in found { body(region) }
    found = []
    while argument.start < argument.end {
      for region in try walk() { body(region) }
    }
  }

  private func walk() throws(Errno) -> UnsafeMutableBufferPointer<cl_page_region>.SubSequence {
    while true {
      do throws(Errno) {
        let count = try withUnsafeMutablePointer(to: &argument) { pointer throws(Errno) in
          try syscall(__NR_ioctl, Int(pagemap), Int(CL_PAGEMAP_SCAN), Int(bitPattern: pointer))
        }
        argument.start = argument.walk_end > argument.start ? argument.walk_end : argument.end
        return step[..<count]
      } catch {
        guard error == .invalidArgument, guardCategory != 0 else { throw error }
        guardCategory = 0
        wantGuards()
      }
    }
  }
}
