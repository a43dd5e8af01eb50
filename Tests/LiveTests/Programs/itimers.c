// The three interval timers: remaining time from the freeze on, intervals, and their signals.
#include "check.h"
#include <sys/time.h>

static volatile long long fired_at;
static volatile int fired, virtual;
static void on_alarm(int number) {
  if (!fired++) fired_at = now_ns();
}
static void on_virtual(int number) { virtual++; }

static long long left(int which, long long *interval) {
  struct itimerval value;
  MUST(getitimer(which, &value));
  *interval = value.it_interval.tv_sec * 1000000000ll + value.it_interval.tv_usec * 1000;
  return value.it_value.tv_sec * 1000000000ll + value.it_value.tv_usec * 1000;
}

int main(int argc, char **argv) {
  begin(argv);
  signal(SIGALRM, on_alarm), signal(SIGVTALRM, on_virtual);
  start_stopwatch();
  long long start = now_ns(), interval, rest;
  MUST(setitimer(ITIMER_REAL, &(struct itimerval){{0, 100000}, {2, 500000}}, 0));
  MUST(setitimer(ITIMER_VIRTUAL, &(struct itimerval){{0, 0}, {0, 300000}}, 0));
  MUST(setitimer(ITIMER_PROF, &(struct itimerval){{77, 5000}, {1000, 0}}, 0));
  cycle();
  rest = left(ITIMER_PROF, &interval);
  CHECK(interval == 77005000000ll && rest > 990000000000ll && rest <= 1000020000000ll, "PROF: %lld ms left", rest / MS);
  rest = left(ITIMER_VIRTUAL, &interval);
  CHECK(!virtual && interval == 0 && rest > 100 * MS && rest <= 320 * MS, "VIRTUAL: %lld ms left", rest / MS);
  while (!fired) nanosleep(&(struct timespec){0, MS}, 0);
  long long took = fired_at - start;
  CHECK(took >= 2499 * MS, "REAL: fires after %lld ms", took / MS);
  CHECK(took >= 2350 * MS + frozen_at_least && took <= 2700 * MS + frozen_at_most, "REAL: fires after %lld ms, frozen %lld", took / MS, frozen_at_least / MS);
  while (fired < 3 && now_ns() - fired_at < 2000 * MS) nanosleep(&(struct timespec){0, MS}, 0);
  CHECK(fired >= 3, "its interval is lost");
  while (!virtual && now_ns() - fired_at < 10000 * MS);
  CHECK(virtual == 1, "VIRTUAL does not fire");
  return pass();
}
