// Scheduling policy, priority and nice value, per thread.
#include "check.h"
#include <sys/resource.h>

struct kind { int policy, priority, nice; };
static const struct kind kinds[] = {{SCHED_OTHER, 0, 7}, {SCHED_BATCH, 0, -3}, {SCHED_IDLE, 0, 0}, {SCHED_FIFO, 4, 0}, {SCHED_RR, 9, 0},
                                    {SCHED_OTHER | SCHED_RESET_ON_FORK, 0, 0}};
#define N 6
static volatile int go, given[N];

static void *one(void *argument) {
  int i = (int)(long)argument;
  pid_t tid = syscall(SYS_gettid);
  struct sched_param parameter = {kinds[i].priority};
  // A control group may allow no real-time policies.
  given[i] = syscall(SYS_sched_setscheduler, tid, kinds[i].policy, &parameter) == 0;
  MUST(setpriority(PRIO_PROCESS, tid, kinds[i].nice));
  here((char[]){'t', '0' + i, 0});
  while (!go) nanosleep(&(struct timespec){0, MS}, 0);
  if (!given[i]) return 0;
  MUST(syscall(SYS_sched_getparam, tid, &parameter));
  int policy = syscall(SYS_sched_getscheduler, tid);
  CHECK(policy == kinds[i].policy && parameter.sched_priority == kinds[i].priority, "thread %d: policy %#x, priority %d", i, policy, parameter.sched_priority);
  errno = 0;
  CHECK(getpriority(PRIO_PROCESS, tid) == kinds[i].nice && !errno, "thread %d: nice %d", i, getpriority(PRIO_PROCESS, tid));
  return 0;
}

int main(int argc, char **argv) {
  begin(argv);
  pthread_t threads[N];
  for (long i = 0; i < N; i++) CHECK(pthread_create(&threads[i], 0, one, (void *)i) == 0, "no thread");
  for (int i = 0; i < N; i++) await((char[]){'t', '0' + i, 0});
  MUST(setpriority(PRIO_PROCESS, 0, 12));
  cycle();
  CHECK(getpriority(PRIO_PROCESS, 0) == 12, "the leader: nice %d", getpriority(PRIO_PROCESS, 0));
  go = 1;
  for (int i = 0; i < N; i++) pthread_join(threads[i], 0);
  return pass();
}
