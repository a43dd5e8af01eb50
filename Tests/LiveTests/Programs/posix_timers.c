// POSIX timers: IDs with gaps, clocks, kinds of notification, remaining time, intervals, overruns.
#include "check.h"

#define N 8
static int ids[N];
static sigset_t all;
static volatile pid_t tid;
static volatile int go, thread_value;

static int create(clockid_t clock, int notify, int number, int value) {
  struct sigevent event = {.sigev_notify = notify, .sigev_signo = number, .sigev_value.sival_int = value};
  event._sigev_un._tid = tid;
  int id;
  MUST(syscall(SYS_timer_create, clock, &event, &id));
  return id;
}
static void set(int id, int flags, long long first, long long interval) {
  struct itimerspec value = {{interval / 1000000000, interval % 1000000000}, {first / 1000000000, first % 1000000000}};
  MUST(syscall(SYS_timer_settime, id, flags, &value, 0));
}
static long long left(int id, long long *interval) {
  struct itimerspec value;
  MUST(syscall(SYS_timer_gettime, id, &value));
  *interval = value.it_interval.tv_sec * 1000000000ll + value.it_interval.tv_nsec;
  return value.it_value.tv_sec * 1000000000ll + value.it_value.tv_nsec;
}
static void *other(void *none) {
  sigset_t one;
  siginfo_t info;
  sigemptyset(&one), sigaddset(&one, SIGRTMIN + 5);
  tid = syscall(SYS_gettid);
  while (!go) nanosleep(&(struct timespec){0, MS}, 0);
  if (sigtimedwait(&one, &info, &(struct timespec){10, 0}) > 0 && info.si_code == SI_TIMER) thread_value = info.si_value.sival_int;
  return none;
}

int main(int argc, char **argv) {
  begin(argv);
  sigemptyset(&all);
  for (int i = 0; i < 10; i++) sigaddset(&all, SIGRTMIN + i);
  sigprocmask(SIG_BLOCK, &all, 0);
  start_stopwatch();
  pthread_t thread;
  pthread_create(&thread, 0, other, 0);
  while (!tid) sched_yield();
  struct timespec wall;
  clock_gettime(CLOCK_REALTIME, &wall);
  ids[0] = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 100);
  int gap = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
  ids[1] = create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 1, 101);
  ids[2] = create(CLOCK_BOOTTIME, SIGEV_NONE, 0, 0);
  ids[3] = create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 5, 103);
  int gap2 = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
  ids[4] = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 4, 104);
  ids[5] = create(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 6, 105);
  ids[6] = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 7, 106);  // not armed
  syscall(SYS_timer_delete, gap), syscall(SYS_timer_delete, gap2);
  long long start = now_ns(), interval, rest;
  set(ids[0], 0, 2000 * MS, 0), set(ids[1], 0, 2200 * MS, 50 * MS), set(ids[2], 0, 500000 * MS, 7 * MS);
  set(ids[3], 0, 2100 * MS, 0), set(ids[4], 0, 10 * MS, 10 * MS), set(ids[5], 0, 900000 * MS, 0);
  nanosleep(&(struct timespec){0, 300 * MS}, 0);  // Timer 4 has fired, and waits to be taken.
  cycle();
  go = 1;
  rest = left(ids[2], &interval);
  CHECK(interval == 7 * MS && rest > 490000 * MS && rest < 500000 * MS, "timer 2: %lld ms left", rest / MS);
  rest = left(ids[5], &interval);
  CHECK(rest > 890000 * MS && rest <= 900020 * MS, "timer 5: %lld ms left", rest / MS);
  CHECK(left(ids[6], &interval) == 0 && interval == 0, "timer 6 runs");
  CHECK(syscall(SYS_timer_gettime, gap, &(struct itimerspec){0}) == -1, "a deleted timer is there");
  siginfo_t info;
  sigset_t one;
  sigemptyset(&one), sigaddset(&one, SIGRTMIN + 4);
  CHECK(sigtimedwait(&one, &info, &(struct timespec){5, 0}) > 0, "timer 4 does not fire");
  CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 104 && info.si_timerid == ids[4], "timer 4: id %d", info.si_timerid);
  // How far it was overrun cannot be known: nothing tells it before the signal is taken.
  CHECK(info.si_overrun >= 0, "timer 4: overrun %d", info.si_overrun);
  CHECK(sigtimedwait(&one, &info, &(struct timespec){5, 0}) > 0 && info.si_timerid == ids[4], "timer 4 does not go on");
  for (int i = 0; i < 2; i++) {
    long long least = i ? 2200 * MS : 2000 * MS;
    sigemptyset(&one), sigaddset(&one, SIGRTMIN + i);
    CHECK(sigtimedwait(&one, &info, &(struct timespec){10, 0}) > 0, "timer %d does not fire", i);
    CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 100 + i && info.si_timerid == ids[i], "timer %d: id %d", i, info.si_timerid);
    long long took = now_ns() - start;
    CHECK(took >= least + frozen_at_least - 150 * MS && took <= least + frozen_at_most + 300 * MS, "timer %d: fires after %lld ms, frozen %lld",
          i, took / MS, frozen_at_least / MS);
  }
  pthread_join(thread, 0);
  CHECK(thread_value == 103, "timer 3 does not reach its thread");
  int fresh = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
  for (int i = 0; i < 7; i++) CHECK(fresh != ids[i], "a new timer gets an ID that is in use");
  return pass();
}
