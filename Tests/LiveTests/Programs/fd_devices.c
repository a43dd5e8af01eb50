// The memory devices, with their access modes.
#include "check.h"
#include <sys/sysmacros.h>

int main(int argc, char **argv) {
  begin(argv);
  const char *names[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"};
  int fds[5][3];
  for (int i = 0; i < 5; i++)
    for (int mode = 0; mode < 3; mode++) fds[i][mode] = MUST(open(names[i], mode | (i % 2 ? O_NONBLOCK : 0)));
  cycle();
  char c[8];
  for (int i = 0; i < 5; i++)
    for (int mode = 0; mode < 3; mode++) {
      struct stat st, wanted;
      MUST(fstat(fds[i][mode], &st)), MUST(stat(names[i], &wanted));
      CHECK(st.st_rdev == wanted.st_rdev && S_ISCHR(st.st_mode), "%s is %d:%d", names[i], major(st.st_rdev), minor(st.st_rdev));
      int flags = fcntl(fds[i][mode], F_GETFL), wanted_flag = i & 1 ? O_NONBLOCK : 0;
      CHECK((flags & O_ACCMODE) == mode && (flags & O_NONBLOCK) == wanted_flag, "%s: flags %#o", names[i], flags);
    }
  CHECK(read(fds[0][0], c, 8) == 0 && write(fds[0][1], c, 8) == 8, "null");
  CHECK(read(fds[1][2], c, 8) == 8 && !memcmp(c, "\0\0\0\0\0\0\0\0", 8), "zero");
  CHECK(write(fds[2][1], c, 1) == -1 && errno == ENOSPC, "full");
  CHECK(read(fds[3][0], c, 8) == 8 && read(fds[4][0], c, 8) == 8, "random");
  return pass();
}
