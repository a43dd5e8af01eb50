// A program that is never inside the vDSO when it is frozen finds its functions where they were, and they are right.
#include "check.h"
#include <sys/time.h>

static void compare(void) {
  for (int i = 0; i < 100; i++) {
    struct timespec by_vdso, by_syscall;
    MUST(clock_gettime(CLOCK_MONOTONIC, &by_vdso)), MUST(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &by_syscall));
    long long apart = (by_syscall.tv_sec - by_vdso.tv_sec) * 1000000000ll + by_syscall.tv_nsec - by_vdso.tv_nsec;
    CHECK(apart >= 0 && apart < 500 * MS, "clock_gettime is off by %lld ns", apart);
  }
  struct timeval now;
  MUST(gettimeofday(&now, 0));
  long long apart = time(0) - now.tv_sec;
  // time() tells the second of the last tick (kernel/time/time.c: ktime_get_real_seconds), which may be the one before.
  CHECK(apart >= -1 && apart <= 1, "time is off by %lld s", apart);
  struct timespec resolution;
  MUST(clock_getres(CLOCK_MONOTONIC, &resolution));
  CHECK(resolution.tv_sec == 0 && resolution.tv_nsec > 0, "clock_getres says %ld ns", resolution.tv_nsec);
  unsigned cpu, node;
  CHECK(getcpu(&cpu, &node) == 0 && cpu < 4096, "CPU %u", cpu);
}

int main(int argc, char **argv) {
  begin(argv);
  pid_t child = MUST(fork());
  if (!child) child_cycle("child"), compare(), _exit(0);
  await("child");
  compare();
  cycle();
  compare();
  child_passed(child);
  return pass();
}
