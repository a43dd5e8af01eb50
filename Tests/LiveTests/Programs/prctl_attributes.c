// What prctl sets and fork inherits: huge pages but where advised, what a machine check does, merging of equal memory, the time stamp counter.
// A child has none of it, whose parent has all.
#include "check.h"
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

struct state { int huge, machine, merge, counter; };

static struct state now(void) {
  struct state s = {prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0), -1};
  prctl(PR_GET_TSC, &s.counter);
  return s;
}

static void compare(const char *who, struct state a, struct state b) {
  CHECK(memcmp(&a, &b, sizeof a) == 0, "%s: huge pages %d, machine checks %d, merging %d, counter %d were %d, %d, %d, %d", who, b.huge,
        b.machine, b.merge, b.counter, a.huge, a.machine, a.merge, a.counter);
}

static volatile int go;

// A thread may not read the counter, and its process may.
static void *without_counter(void *none) {
  MUST(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
  struct state before = now();
  here("thread");
  while (!go) usleep(1000);
  compare("the thread", before, now());
  return 0;
}

static void prepare(int all) {
  // Flags since Linux 6.18; 2 is PR_THP_DISABLE_EXCEPT_ADVISED.
  if (prctl(PR_SET_THP_DISABLE, all, all ? 2 : 0, 0, 0) != 0) MUST(prctl(PR_SET_THP_DISABLE, all, 0, 0, 0));
  prctl(PR_MCE_KILL, PR_MCE_KILL_SET, all ? PR_MCE_KILL_EARLY : PR_MCE_KILL_DEFAULT, 0, 0);
  prctl(PR_SET_MEMORY_MERGE, all, 0, 0, 0);
}

int main(int argc, char **argv) {
  begin(argv);
  prepare(1);
  pid_t child = MUST(fork());
  if (child == 0) {
    prepare(0);
    struct state before = now();
    child_cycle("child");
    compare("the child", before, now());
    _exit(0);
  }
  pthread_t thread;
  CHECK(pthread_create(&thread, 0, without_counter, 0) == 0, "no thread");
  await("child"), await("thread");
  struct state before = now();
  cycle();
  compare("the parent", before, now());
  go = 1;
  pthread_join(thread, 0);
  child_passed(child);
  return pass();
}
