// The signal that a child asked for on its parent's death: still asked for, and it comes.
#include "check.h"

static volatile int came;
static void handler(int number) { came = number; }

int main(int argc, char **argv) {
  begin(argv);
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
  pid_t middle = MUST(fork());
  if (middle == 0) {
    if (MUST(fork()) == 0) {
      signal(SIGUSR2, handler);
      MUST(prctl(PR_SET_PDEATHSIG, SIGUSR2));
      child_cycle("child");
      int number;
      MUST(prctl(PR_GET_PDEATHSIG, &number));
      CHECK(number == SIGUSR2 && !came, "%d is asked for, %d came", number, came);
      here("looked");
      for (int i = 0; i < 500 && !came; i++) nanosleep(&(struct timespec){0, 10 * MS}, 0);
      CHECK(came == SIGUSR2, "no signal");
      _exit(0);
    }
    await("child"), child_cycle("middle"), await("looked"), _exit(0);
  }
  await("middle");
  cycle();
  child_passed(middle);
  int status;
  CHECK(wait(&status) > 0 && status == 0, "the child ends with %#x", status);
  return pass();
}
