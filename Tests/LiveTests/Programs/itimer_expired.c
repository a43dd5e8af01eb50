// An interval timer whose signal is still blocked: it says 0 until the signal is taken, and must go on then.
#include "check.h"
#include <sys/time.h>

int main(int argc, char **argv) {
  begin(argv);
  sigset_t alarms;
  sigemptyset(&alarms), sigaddset(&alarms, SIGALRM);
  sigprocmask(SIG_BLOCK, &alarms, 0);
  MUST(setitimer(ITIMER_REAL, &(struct itimerval){{0, 20000}, {0, 20000}}, 0));
  usleep(50000);
  cycle();
  for (int i = 0; i < 3; i++) {
    int signal = sigtimedwait(&alarms, 0, &(struct timespec){5, 0});
    CHECK(signal == SIGALRM, "tick %d: %s", i, strerror(errno));
  }
  return pass();
}
