import Glibc

/// Puts right what a process may inherit over exec that programs do not expect (man 2 execve). At the start of a program, before
/// there is a thread or an open file.
public func tidyInheritance() {
  // Ignored, the kernel reaps children by itself, and nobody who waits for one hears of its end (man 2 wait, NOTES).
  signal(SIGCHLD, SIG_DFL)
  // A closed standard descriptor would be the number of the next file, which then gets what is meant for people.
  for fd: Int32 in 0...2 where fcntl(fd, F_GETFD) < 0 { _ = open("/dev/null", O_RDWR) }
  // Folders are made to be written into, and images to be read again.
  umask(umask(0o777) & 0o077)
}
