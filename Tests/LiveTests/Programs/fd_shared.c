// File descriptions shared between tasks, also under different numbers, and those that are not shared.
#include "check.h"
#include <linux/kcmp.h>

static int same(pid_t other, int mine, int theirs) { return syscall(SYS_kcmp, getpid(), other, KCMP_FILE, mine, theirs) == 0; }

int main(int argc, char **argv) {
  begin(argv);
  MUST(close(MUST(open(path_of("file"), O_WRONLY | O_CREAT | O_EXCL, 0644))));
  MUST(truncate(path_of("file"), 100000));
  int shared = MUST(open(path_of("file"), O_RDWR)), gone = MUST(open(path_of("file"), O_RDONLY));
  pid_t child = MUST(fork());
  if (child == 0) {
    MUST(dup2(shared, 40)), close(shared);
    int own = MUST(open(path_of("file"), O_RDWR));
    MUST(dup2(own, 41)), close(own);
    pid_t grandchild = MUST(fork());
    if (grandchild == 0) {
      child_cycle("grandchild"), await("moved");
      CHECK(lseek(40, 0, SEEK_CUR) == 777 && lseek(41, 0, SEEK_CUR) == 0, "the grandchild's offsets");
      CHECK(lseek(gone, 0, SEEK_CUR) == 55, "what its grandparent closed");
      await("compared");
      _exit(0);
    }
    await("grandchild"), MUST(lseek(gone, 55, SEEK_SET));
    child_cycle("child"), await("moved");
    CHECK(lseek(40, 0, SEEK_CUR) == 777 && lseek(41, 0, SEEK_CUR) == 0, "the child's offsets");
    CHECK(same(grandchild, 40, 40) && same(grandchild, 41, 41) && same(grandchild, gone, gone) && !same(grandchild, 40, 41), "kcmp");
    here("compared"), child_passed(grandchild), _exit(0);
  }
  await("child"), close(gone);
  cycle();
  CHECK(same(child, shared, 40), "the description is not shared with the child");
  CHECK(!same(child, shared, 41), "what was opened twice is one description now");
  MUST(lseek(shared, 777, SEEK_SET)), here("moved");
  child_passed(child);
  return pass();
}
