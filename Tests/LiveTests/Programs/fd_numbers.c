// Descriptor numbers with gaps, close-on-exec, what numbers share, offsets, and status flags of regular files.
#include "check.h"

static int offset_of(int fd) { return lseek(fd, 0, SEEK_CUR); }

int main(int argc, char **argv) {
  begin(argv);
  MUST(close(MUST(open(path_of("file"), O_WRONLY | O_CREAT | O_EXCL, 0644))));
  MUST(truncate(path_of("file"), 100000));
  int first = MUST(open(path_of("file"), O_RDWR));
  MUST(dup3(first, 500, O_CLOEXEC)), MUST(dup2(first, 17));
  int second = MUST(open(path_of("file"), O_RDWR | O_CLOEXEC));
  int append = MUST(open(path_of("log"), O_WRONLY | O_CREAT | O_APPEND, 0600));
  MUST(write(append, "one\n", 4));
  const int flags[] = {O_RDONLY | O_NONBLOCK, O_WRONLY | O_SYNC, O_RDWR | O_DSYNC, O_RDONLY | O_NOATIME, O_RDWR | O_DIRECT, O_RDONLY | O_NOFOLLOW};
  int opened[6], shown[6];
  for (int i = 0; i < 6; i++) opened[i] = open(path_of("file"), flags[i]), shown[i] = fcntl(opened[i], F_GETFL);
  MUST(lseek(first, 1234, SEEK_SET)), MUST(lseek(second, 5678, SEEK_SET));
  for (int i = 0; i < 6; i++) if (opened[i] >= 0) MUST(lseek(opened[i], i * 512, SEEK_SET));
  cycle();
  CHECK(fcntl(first, F_GETFD) == 0 && fcntl(500, F_GETFD) == FD_CLOEXEC && fcntl(17, F_GETFD) == 0 && fcntl(second, F_GETFD) == FD_CLOEXEC, "close-on-exec");
  CHECK(offset_of(first) == 1234 && offset_of(500) == 1234 && offset_of(second) == 5678, "offsets %d %d %d", offset_of(first), offset_of(500), offset_of(second));
  MUST(lseek(17, 42, SEEK_SET));
  CHECK(offset_of(first) == 42 && offset_of(500) == 42 && offset_of(second) == 5678, "what is shared between numbers");
  for (int i = 0; i < 6; i++) {
    if (opened[i] < 0) continue;
    CHECK(fcntl(opened[i], F_GETFL) == shown[i], "%d: flags %#o are now %#o", i, shown[i], fcntl(opened[i], F_GETFL));
    CHECK(offset_of(opened[i]) == i * 512, "%d: offset %d", i, offset_of(opened[i]));
  }
  CHECK(fcntl(append, F_GETFL) & O_APPEND, "O_APPEND is lost");
  MUST(lseek(append, 0, SEEK_SET)), MUST(write(append, "two\n", 4));
  struct stat st;
  MUST(fstat(append, &st));
  CHECK(st.st_size == 8, "the log has %ld bytes", st.st_size);
  for (int fd = 0; fd < 1024; fd++) {
    int known = fd < 3 || fd == first || fd == 500 || fd == 17 || fd == second || fd == append;
    for (int i = 0; i < 6; i++) known |= fd == opened[i];
    CHECK((fcntl(fd, F_GETFD) >= 0) == known, "descriptor %d", fd);
  }
  return pass();
}
