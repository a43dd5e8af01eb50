// CPU affinity, I/O priority and timer slack, per thread.
#include "check.h"

static volatile int go;

struct look { cpu_set_t cpus; long io_priority, slack; };

static void look(struct look *l) {
  memset(l, 0, sizeof *l);
  MUST(sched_getaffinity(0, sizeof l->cpus, &l->cpus));
  l->io_priority = MUST(syscall(SYS_ioprio_get, 1, 0)), l->slack = MUST(prctl(PR_GET_TIMERSLACK));
}
static void compare(struct look *before, const char *who) {
  struct look after;
  look(&after);
  CHECK(CPU_EQUAL(&before->cpus, &after.cpus), "%s: affinity %#lx is now %#lx", who, before->cpus.__bits[0], after.cpus.__bits[0]);
  CHECK(before->io_priority == after.io_priority, "%s: I/O priority %#lx is now %#lx", who, before->io_priority, after.io_priority);
  CHECK(before->slack == after.slack, "%s: timer slack %ld is now %ld", who, before->slack, after.slack);
}
static void place(int cpu, int class, int level, long slack) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  sched_setaffinity(0, sizeof one, &one);
  MUST(syscall(SYS_ioprio_set, 1, 0, class << 13 | level)), MUST(prctl(PR_SET_TIMERSLACK, slack));
}
static void *other(void *none) {
  struct look before;
  place(1, 3, 0, 1234567), look(&before);
  here("other");
  while (!go) nanosleep(&(struct timespec){0, MS}, 0);
  compare(&before, "the thread");
  return none;
}

int main(int argc, char **argv) {
  begin(argv);
  struct look before;
  pthread_t thread;
  CHECK(pthread_create(&thread, 0, other, 0) == 0, "no thread");
  await("other");
  place(0, 2, 6, 77777), look(&before);
  cycle();
  compare(&before, "the leader");
  go = 1;
  pthread_join(thread, 0);
  return pass();
}
