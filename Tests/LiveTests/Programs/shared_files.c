// Tasks that share one descriptor table (CLONE_FILES) still do; a task that does not, does not.
#include "check.h"

static pid_t child_with(int flags) { return MUST(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0)); }

int main(int argc, char **argv) {
  begin(argv);
  pid_t sharing = child_with(CLONE_FILES);
  if (sharing == 0) {
    child_cycle("sharing"), await("opened");
    CHECK(fcntl(77, F_GETFD) >= 0, "the table is not shared any more");
    close(77), here("closed"), _exit(0);
  }
  pid_t apart = child_with(0);
  if (apart == 0) {
    child_cycle("apart"), await("opened");
    CHECK(fcntl(77, F_GETFD) < 0, "it shares what it did not share");
    _exit(0);
  }
  await("sharing"), await("apart");
  cycle();
  MUST(dup2(0, 77)), here("opened"), await("closed");
  CHECK(fcntl(77, F_GETFD) < 0, "the table is not shared any more");
  child_passed(sharing), child_passed(apart);
  return pass();
}
