// A child subreaper stays one: its adopted orphan is still its child, and the next orphan comes to it as well.
#include "check.h"

static void orphan(const char *name) {  // Its parent exits at once.
  pid_t middle = MUST(fork());
  if (middle == 0) {
    if (MUST(fork()) == 0) {
      child_cycle(name);
      await("look");
      CHECK(getppid() == root_pid, "%s belongs to %d", name, getppid());
      _exit(5);
    }
    _exit(0);
  }
  MUST(waitpid(middle, 0, 0));
  await(name);
}

int main(int argc, char **argv) {
  begin(argv);
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
  orphan("first");
  cycle();
  int yes = 0, status;
  MUST(prctl(PR_GET_CHILD_SUBREAPER, &yes));
  CHECK(yes == 1, "it is no subreaper");
  orphan("second");
  here("look");
  for (int i = 0; i < 2; i++) {
    CHECK(waitpid(-1, &status, 0) > 0, "%s", strerror(errno));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5, "status %#x", status);
  }
  return pass();
}
