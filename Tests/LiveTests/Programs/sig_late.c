// A child sends its parent signals until it is frozen, which is after the parent: of many threads one takes them, and none is lost.
#include "check.h"
#include <sys/prctl.h>

enum { THREADS = 150 };

static struct counters {
  int taker;
  volatile long sent, taken;
  volatile int enough;
} *shared;

static void *idle(void *argument) {
  for (;;) pause();
  return argument;
}

static void *take(void *argument) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN);
  shared->taker = syscall(SYS_gettid);
  for (siginfo_t info;;)
    if (sigwaitinfo(&set, &info) == SIGRTMIN) shared->taken++;
  return argument;
}

static void send_signals(pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  while (!shared->enough) {
    // Room for one that is under way: the queue is short.
    if (shared->sent - shared->taken > 100) continue;
    if (!syscall(SYS_tgkill, parent, shared->taker, SIGRTMIN)) shared->sent++;
    for (volatile int i = 0; i < 2000; i++) {}
  }
  _exit(0);
}

int main(int argc, char **argv) {
  (void)argc;
  begin(argv);
  shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(shared != MAP_FAILED, "no shared memory");
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMIN);
  sigprocmask(SIG_BLOCK, &set, NULL);
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 65536);
  pthread_t id;
  CHECK(pthread_create(&id, &small, take, NULL) == 0, "no thread");
  for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&id, &small, idle, NULL) == 0, "thread %d", i);
  while (!shared->taker) usleep(1000);
  pid_t self = getpid(), child = fork();
  if (child == 0) send_signals(self);
  while (shared->taken < 100) usleep(1000);
  cycle();
  shared->enough = 1;
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0, "the child ended with %x", status);
  for (int i = 0; i < 2000 && shared->taken < shared->sent; i++) usleep(1000);
  CHECK(shared->taken == shared->sent, "%ld were sent, %ld taken", shared->sent, shared->taken);
  return pass();
}
