import CLinux
import Checkpoint
import Glibc
import Linux
import SystemPackage

/// Memory that tasks share: MAP_SHARED|MAP_ANONYMOUS mappings and memfds (man 2 mmap, memfd_create), both files of the kernel's
/// own tmpfs. The content goes to `pagemap-shmem-N.img` and a `pages-N.img`, once for each.
public struct SharedMemoryTable {
  private var ids: [UInt64: UInt64] = [:]

  /// The image number of a segment that was recorded; nothing of it is read yet.
  public mutating func isNew(inode: UInt64) -> Bool {
    if ids[inode] != nil { return false }
    ids[inode] = inode
    return true
  }

  /// Writes the content of every anonymous shared mapping of the tree, each through the first task that has it.
  public static func recordSegments(_ dump: DumpContext) throws(Failure) {
    for (pid, mapping) in dump.sharedSegments {
      let path =
        "/proc/\(pid)/map_files/\(String(mapping.start, radix: 16))-\(String(mapping.end, radix: 16))"
      let st = try about("shared memory \(mapping.inode)") { () throws(Errno) in try fstat(at: AT_FDCWD, path)
      }
      try record(id: mapping.inode, path: path, size: UInt64(st.st_size), dump)
    }
  }

  /// Writes the content of the tmpfs file that `path` opens. `id` is the N of the image. `size` in bytes.
  public static func record(id: UInt64, path: String, size: UInt64, _ dump: DumpContext) throws(Failure) {
    try about("shared memory \(id)") { () throws(Failure) in
      let memory = try about("opening \(path)") { () throws(Errno) in try Descriptor.open(path, O_RDONLY) }
      let pagesID = dump.nextPagesImage()
      let pages = try asFailure { () throws(ImageError) in try dump.directory.create(.pages(pagesID)) }
      let out = Descriptor(pages.rawValue)
      var map: [PagemapEntry] = []
      do throws(Errno) {
        var offset = 0
        if let page = HugePages.size(of: memory.rawValue) {
          map = try HugePages.copy(memory.rawValue, size: Int(size), page: page, to: out.rawValue)
          offset = Int(size)
        }
        while offset < Int(size), let data = try nextData(memory.rawValue, from: offset) {
          // A file may end within a page; its image has whole ones.
          let end = Int(pageAlignUp(UInt64(data.upperBound)))
          try copy(memory.rawValue, data.lowerBound, end - data.lowerBound, to: out.rawValue)
          map.append(
            PagemapEntry(
              address: UInt64(data.lowerBound), pages: UInt64((end - data.lowerBound + 4095) / 4096)))
          offset = end
        }
      } catch {
        throw Failure("writing its content", error)
      }
      var image = try asFailure { () throws(ImageError) in
        try ImageWriter(.pagemapShmem(UInt32(truncatingIfNeeded: id)), in: dump.directory)
      }
      var head = PagemapHead()
      head.pagesId = pagesID
      try image.write(head)
      for entry in map { try image.write(entry) }
      try image.end()
      dump.statistics.shpagesWritten =
        (dump.statistics.shpagesWritten ?? 0) + map.reduce(0) { $0 + ($1.nrPages ?? 0) }
    }
  }

  /// Moves bytes from file to file in the kernel (man 2 sendfile); the last page is filled up with zeroes.
  private static func copy(_ from: Int32, _ offset: Int, _ count: Int, to: Int32) throws(Errno) {
    var position = Int64(offset)
    var left = count
    while left > 0 {
      let n = try withUnsafeMutablePointer(to: &position) { pointer throws(Errno) in
        try syscall(__NR_sendfile, Int(to), Int(from), Int(bitPattern: pointer), left)
      }
      if n == 0 {
        let end = try syscall(__NR_lseek, Int(to), 0, 1 /* SEEK_CUR */)
        try syscall(__NR_ftruncate, Int(to), end + left)
        try syscall(__NR_lseek, Int(to), end + left, 0)
        return
      }
      left -= n
    }
  }
}

extension PagemapEntry {
  /// Pages that are in the pages image (PE_PRESENT).
  init(address: UInt64, pages: UInt64) {
    self.init()
    vaddr = address
    nrPages = pages
    compatNrPages = UInt32(clamping: pages)
    flags = 4
  }

  public var pageCount: UInt64 { nrPages ?? UInt64(compatNrPages) }
}

/// Shared memory that has been made again, as descriptors of this process.
public struct RestoredSharedMemory {
  private var descriptors: [UInt64: Int32] = [:]

  /// A descriptor of an anonymous shared mapping of this many bytes, made and filled if it is asked for the first time.
  ///
  /// It is opened through this process's own `map_files`, so that tasks that map it see what they saw before: "/dev/zero (deleted)".
  /// `huge` are mmap's flags for huge pages, or 0.
  static func anonymous(_ id: UInt64, size: UInt64, huge: UInt32, _ restore: RestoreContext) throws(Failure) -> Int32 {
    if let fd = restore.sharedMemory.descriptors[id] { return fd }
    let fd = try about("shared memory \(id)") { () throws(Failure) -> Int32 in
      let descriptor = try about("mapping it") { () throws(Errno) -> Descriptor in
        // Whose capabilities count in a user namespace only is not let in to map_files (fs/proc/base.c: proc_map_files_open). There
        // the memory has a memfd's name.
        if restore.privileges.makesUserNamespace { return try memfd(size: size, huge: huge) }
        let address = try syscall(
          __NR_mmap, 0, Int(size), Int(PROT_READ | PROT_WRITE), Int(MAP_SHARED | MAP_ANONYMOUS) | Int(huge), -1, 0)
        defer { _ = cl_syscall(Int(__NR_munmap), address, Int(size), 0, 0, 0, 0) }
        return try Descriptor.open(
          "/proc/self/map_files/\(String(address, radix: 16))-\(String(address + Int(size), radix: 16))",
          O_RDWR)
      }
      try fill(descriptor.rawValue, id: id, restore)
      return descriptor.release()
    }
    restore.sharedMemory.descriptors[id] = fd
    return fd
  }

  private static func memfd(size: UInt64, huge: UInt32) throws(Errno) -> Descriptor {
    // The page size is said in the same bits (linux/memfd.h: MFD_HUGE_SHIFT).
    let descriptor = try memfdCreate("shared", flags: huge == 0 ? 0 : 4 /* MFD_HUGETLB */ | Int(huge & 0xfc00_0000))
    try syscall(__NR_ftruncate, Int(descriptor.rawValue), Int(size))
    return descriptor
  }

  /// Reads the content of segment `id` into a tmpfs file.
  static func fill(_ fd: Int32, id: UInt64, _ restore: RestoreContext) throws(Failure) {
    let file = ImageFile.pagemapShmem(UInt32(truncatingIfNeeded: id))
    guard restore.directory.contains(file) else { return }
    var image = try asFailure { () throws(ImageError) in try ImageReader(file, in: restore.directory) }
    guard let head = try image.read(PagemapHead.self) else {
      throw Failure("pagemap-shmem-\(id).img is empty")
    }
    let opened = try asFailure { () throws(ImageError) in try restore.directory.open(.pages(head.pagesId)) }
    let pages = Descriptor(opened.rawValue)
    while let entry = try image.read(PagemapEntry.self) {
      guard entry.pageCount <= 1 << 36, entry.vaddr <= 1 << 48 else {
        throw Failure("pagemap-shmem-\(id).img: \(entry.pageCount) pages at \(entry.vaddr) is out of range")
      }
      try about("reading its content") { () throws(Errno) in
        if let page = HugePages.size(of: fd) {
          try HugePages.fill(
            fd, at: Int(entry.vaddr), count: Int(entry.pageCount) * pageSize, from: pages.rawValue, page: page)
          return
        }
        try syscall(__NR_lseek, Int(fd), Int(entry.vaddr), 0)
        var left = Int(entry.pageCount) * pageSize
        while left > 0 {
          let n = try syscall(__NR_sendfile, Int(fd), Int(pages.rawValue), 0, left)
          if n == 0 { throw .ioError }
          left -= n
        }
      }
    }
  }

  func closeAll() {
    for fd in descriptors.values { _ = cl_syscall(Int(__NR_close), Int(fd), 0, 0, 0, 0, 0) }
  }
}
