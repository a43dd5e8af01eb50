// The kernel's constants that glibc hides behind _GNU_SOURCE or does not have yet (x86-64 values).

public let O_PATH: Int32 = 0o10000000
public let O_NOATIME: Int32 = 0o1000000
public let O_DIRECT: Int32 = 0o40000
public let O_TMPFILE: Int32 = 0o20200000
public let AT_EMPTY_PATH: Int32 = 0x1000

public let MAP_GROWSDOWN: UInt32 = 0x100
public let MAP_LOCKED: UInt32 = 0x2000
public let MAP_NORESERVE: UInt32 = 0x4000
public let MAP_FIXED_NOREPLACE: UInt32 = 0x100000
public let MAP_HUGETLB: UInt32 = 0x40000
public let MAP_DROPPABLE: UInt32 = 0x08

public let F_SETPIPE_SZ = 1031
public let F_GETPIPE_SZ = 1032
public let F_ADD_SEALS = 1033
public let F_GET_SEALS = 1034
public let F_SETSIG = 10
public let F_GETSIG = 11
public let F_SETOWN_EX = 15
public let F_GETOWN_EX = 16
public let F_GETOWNER_UIDS = 17

/// The signal numbers that a kernel sigset has bits for.
public let signalCount = 64
