// Mappings of a file that has no name any more, private and shared, by two tasks, with and without a descriptor.
#include "check.h"
#define PAGE 4096ul

static void hold(const char *name, int keep_descriptor, char **private, char **shared, int *fd) {
  static char content[8 * PAGE];
  fill(content, sizeof content, 1);
  *fd = MUST(open(path_of(name), O_RDWR | O_CREAT | O_EXCL, 0640));
  MUST(write(*fd, content, sizeof content));
  *private = MUST(mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, *fd, 0));
  *shared = MUST(mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0));
  MUST(unlink(path_of(name)));
  if (!keep_descriptor) close(*fd), *fd = -1;
  fill(*private + PAGE, PAGE, 2), fill(*shared + 2 * PAGE, PAGE, 3);
}

int main(int argc, char **argv) {
  begin(argv);
  char *private[2], *shared[2];
  int fd[2];
  hold("open", 1, &private[0], &shared[0], &fd[0]);
  hold("closed", 0, &private[1], &shared[1], &fd[1]);
  pid_t child = MUST(fork());
  if (child == 0) {
    child_cycle("child"), await("written");
    for (int i = 0; i < 2; i++) CHECK(filled(shared[i] + 4 * PAGE, PAGE, 4), "file %d is not shared with the child", i);
    _exit(0);
  }
  await("child");
  cycle();
  struct stat st;
  for (int i = 0; i < 2; i++) {
    CHECK(filled(private[i] + PAGE, PAGE, 2) && filled(shared[i] + 2 * PAGE, PAGE, 3), "changed pages of file %d", i);
    CHECK(filled(private[i], PAGE, 1) && filled(shared[i], PAGE, 1), "unchanged pages of file %d", i);
    CHECK(!memcmp(private[i] + 5 * PAGE, shared[i] + 5 * PAGE, 3 * PAGE), "the end of file %d", i);
    fill(shared[i] + 4 * PAGE, PAGE, 4);
    CHECK(filled(private[i] + 4 * PAGE, PAGE, 4), "both mappings of file %d are of one file", i);
    CHECK(stat(path_of((char *[]){"open", "closed"}[i]), &st) < 0 && errno == ENOENT, "the name is there again");
  }
  static char now[PAGE];
  MUST(fstat(fd[0], &st));
  CHECK(st.st_nlink == 0 && (st.st_mode & 07777) == 0640, "%d links, mode %o", (int)st.st_nlink, st.st_mode);
  CHECK(pread(fd[0], now, PAGE, 4 * PAGE) == PAGE && filled(now, PAGE, 4), "the descriptor shows another file");
  here("written");
  child_passed(child);
  return pass();
}
