// O_PATH descriptors (of a file, a folder, a symbolic link), and folders with their position in the listing.
#include "check.h"
#include <dirent.h>

int main(int argc, char **argv) {
  begin(argv);
  char name[700], target[700];
  MUST(mkdir(path_of("folder"), 0755));
  for (int i = 0; i < 40; i++) {
    snprintf(name, sizeof name, "%s.folder/entry%02d", base, i);
    MUST(close(MUST(open(name, O_CREAT | O_WRONLY, 0644))));
  }
  MUST(symlink("nowhere", path_of("link")));
  int file = MUST(open(name, O_PATH)), folder = MUST(open(path_of("folder"), O_PATH | O_DIRECTORY));
  int link = MUST(open(path_of("link"), O_PATH | O_NOFOLLOW | O_CLOEXEC)), listing = MUST(open(path_of("folder"), O_RDONLY | O_DIRECTORY));
  char buffer[400];
  MUST(syscall(SYS_getdents64, listing, buffer, sizeof buffer));
  long position = lseek(listing, 0, SEEK_CUR);
  int flags[4] = {fcntl(file, F_GETFL), fcntl(folder, F_GETFL), fcntl(link, F_GETFL), fcntl(listing, F_GETFL)};
  cycle();
  int fds[4] = {file, folder, link, listing};
  for (int i = 0; i < 4; i++) CHECK(fcntl(fds[i], F_GETFL) == flags[i], "%d: flags %#o are now %#o", i, flags[i], fcntl(fds[i], F_GETFL));
  CHECK(fcntl(link, F_GETFD) == FD_CLOEXEC, "close-on-exec");
  CHECK(read(file, buffer, 1) == -1 && errno == EBADF, "the file can be read");
  CHECK(readlinkat(link, "", target, sizeof target) == 7 && !memcmp(target, "nowhere", 7), "the link");
  MUST(close(MUST(openat(folder, "entry39", O_RDONLY))));
  struct stat a, b;
  MUST(fstat(file, &a)), MUST(stat(name, &b));
  CHECK(a.st_ino == b.st_ino, "another file");
  CHECK(lseek(listing, 0, SEEK_CUR) == position, "the listing is at %ld, not %ld", lseek(listing, 0, SEEK_CUR), position);
  CHECK(syscall(SYS_getdents64, listing, buffer, sizeof buffer) > 0, "the listing does not go on");
  return pass();
}
