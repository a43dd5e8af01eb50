// More threads than the system has processes, in a parent and its child: the child is that of one thread among many, and has none.
#include "check.h"
#include <stdatomic.h>

enum { THREADS = 500 };

static atomic_int ready, waited;
static pid_t child;
static int status;

static void *rest(void *unused) {
  ready++;
  for (;;) pause();
  return unused;
}

static void crowd(int count) {
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, 65536);
  for (int i = 0; i < count; i++) {
    pthread_t thread;
    CHECK(pthread_create(&thread, &attr, rest, NULL) == 0, "thread %d", i);
  }
  while (ready < count) usleep(1000);
}

static void *forker(void *unused) {
  child = MUST(fork());
  if (child == 0) {
    ready = 0;
    crowd(THREADS);
    child_cycle("crowded");
    _exit(7);
  }
  await("crowded");
  ready++;
  await("check");
  CHECK(waitpid(child, &status, 0) == child, "%s", strerror(errno));
  waited = 1;
  for (;;) pause();
  return unused;
}

int main(int argc, char **argv) {
  (void)argc;
  begin(argv);
  crowd(THREADS);
  pthread_t thread;
  CHECK(pthread_create(&thread, NULL, forker, NULL) == 0, "thread");
  while (ready < THREADS + 1) usleep(1000);
  cycle();
  while (!waited) usleep(1000);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7, "status %#x", status);
  return pass();
}
