// The execution domain's flags.
#include "check.h"
#include <sys/personality.h>

int main(int argc, char **argv) {
  begin(argv);
  int wanted = ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT | STICKY_TIMEOUTS;
  MUST(personality(wanted));
  pid_t child = MUST(fork());
  if (child == 0) {
    personality(UNAME26);
    child_cycle("child");
    CHECK(personality(-1) == UNAME26, "the child: %#x", personality(-1));
    _exit(0);
  }
  await("child");
  cycle();
  CHECK(personality(-1) == wanted, "%#x", personality(-1));
  child_passed(child);
  return pass();
}
