// Sleeps go on where they were: whole time slept, no EINTR.
#include "blocked.h"

#define LONG 2500 * MS
static struct timespec span = {LONG / 1000000000, LONG % 1000000000};

static long plain(void) { return nanosleep(&span, 0); }
static long with_rest(void) {
  struct timespec rest;
  return nanosleep(&span, &rest);
}
static long in_place(void) {  // The remaining time overwrites the request.
  struct timespec both = span;
  return nanosleep(&both, &both);
}
static long on_clock(void) { return clock_nanosleep(CLOCK_MONOTONIC, 0, &span, 0); }
static long on_real_clock(void) { return clock_nanosleep(CLOCK_REALTIME, 0, &span, 0); }
static long until(void) {
  struct timespec end;
  clock_gettime(CLOCK_MONOTONIC, &end);
  end.tv_sec += span.tv_sec, end.tv_nsec += span.tv_nsec;
  if (end.tv_nsec >= 1000000000) end.tv_sec++, end.tv_nsec -= 1000000000;
  return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, 0);
}

static struct blocked list[] = {
    {"nanosleep", plain, 0, LONG},           {"nanosleep with rest", with_rest, 0, LONG},
    {"nanosleep in place", in_place, 0, LONG}, {"clock_nanosleep", on_clock, 0, LONG},
    {"clock_nanosleep REALTIME", on_real_clock, 0, LONG}, {"clock_nanosleep ABSTIME", until, 0, LONG},
};

int main(int argc, char **argv) {
  begin(argv);
  start_stopwatch();
  start_blocked(list, 6);
  cycle();
  check_blocked(list, 6);
  return pass();
}
