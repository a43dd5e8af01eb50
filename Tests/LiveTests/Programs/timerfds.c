// timerfd: remaining time, interval, unread ticks, clocks, an expired one, one that was never set.
#include "check.h"
#include <poll.h>
#include <sys/timerfd.h>

static int make(clockid_t clock, long long first, long long interval) {
  int fd = MUST(timerfd_create(clock, TFD_NONBLOCK));
  struct itimerspec value = {{interval / 1000000000, interval % 1000000000}, {first / 1000000000, first % 1000000000}};
  MUST(timerfd_settime(fd, 0, &value, 0));
  return fd;
}
static long long left(int fd, long long *interval) {
  struct itimerspec value;
  MUST(timerfd_gettime(fd, &value));
  *interval = value.it_interval.tv_sec * 1000000000ll + value.it_interval.tv_nsec;
  return value.it_value.tv_sec * 1000000000ll + value.it_value.tv_nsec;
}

int main(int argc, char **argv) {
  begin(argv);
  uint64_t ticks;
  long long interval, rest, start = now_ns();
  start_stopwatch();
  int soon = make(CLOCK_MONOTONIC, 2000 * MS, 0), ticking = make(CLOCK_MONOTONIC, 10 * MS, 10 * MS), later = make(CLOCK_BOOTTIME, 1000000 * MS, 9 * MS);
  int real = make(CLOCK_REALTIME, 500000 * MS, 0), expired = make(CLOCK_MONOTONIC, MS, 0), never = make(CLOCK_MONOTONIC, 0, 0), read_out = make(CLOCK_MONOTONIC, MS, 0);
  nanosleep(&(struct timespec){0, 205 * MS}, 0);
  MUST(read(read_out, &ticks, 8));
  cycle();
  // The ticks since the last read are in fdinfo only after timerfd_gettime has counted them (fs/timerfd.c).
  CHECK(read(ticking, &ticks, 8) == 8 && ticks >= 20, "%lu ticks", ticks);
  CHECK(ticks <= 20 + (uint64_t)(now_ns() - start) / (10 * MS), "%lu ticks", ticks);
  rest = left(ticking, &interval);
  CHECK(interval == 10 * MS && rest > 0 && rest <= 10 * MS, "%lld ns left, interval %lld", rest, interval);
  rest = left(later, &interval);
  CHECK(interval == 9 * MS && rest > 990000 * MS && rest <= 1000000 * MS, "%lld ms left", rest / MS);
  rest = left(real, &interval);
  CHECK(interval == 0 && rest > 490000 * MS && rest <= 500000 * MS, "%lld ms left", rest / MS);
  CHECK(read(expired, &ticks, 8) == 8 && ticks == 1, "the expired one");
  CHECK(read(read_out, &ticks, 8) == -1 && errno == EAGAIN, "the one that was read out");
  CHECK(left(never, &interval) == 0 && read(never, &ticks, 8) == -1 && errno == EAGAIN, "the one never set");
  CHECK(poll(&(struct pollfd){soon, POLLIN}, 1, 10000) == 1, "it does not fire");
  long long took = now_ns() - start;
  CHECK(took >= 2000 * MS + frozen_at_least - 150 * MS && took <= 2000 * MS + frozen_at_most + 300 * MS, "it fires after %lld ms, frozen %lld", took / MS, frozen_at_least / MS);
  return pass();
}
