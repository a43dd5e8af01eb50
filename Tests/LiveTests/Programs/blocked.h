// Threads that each sit in one blocking syscall while the tree is frozen. None may see EINTR: no signal came.
#pragma once
#include "check.h"

struct blocked {
  const char *name;
  long (*call)(void);      // the syscall
  long want;               // its result
  long long least;         // ns that it must take by the clock; 0 where something ends it
  long got, error;
  long long took;
  pid_t tid;
  volatile int done;
  pthread_t thread;
};

static inline void *run_blocked(void *argument) {
  struct blocked *b = argument;
  b->tid = syscall(SYS_gettid);
  long long start = now_ns();
  errno = 0;
  b->got = b->call(), b->error = errno;
  b->took = now_ns() - start, b->done = 1;
  return 0;
}

static inline void start_blocked(struct blocked *list, int count) {
  for (int i = 0; i < count; i++) CHECK(pthread_create(&list[i].thread, 0, run_blocked, &list[i]) == 0, "no thread");
  nanosleep(&(struct timespec){0, 100 * MS}, 0);
}

// A call with a timeout takes its time by the clock; the time that it was frozen may come on top, nothing else may.
static inline void check_blocked(struct blocked *list, int count) {
  for (int i = 0; i < count; i++) {
    struct blocked *b = &list[i];
    pthread_join(b->thread, 0);
    CHECK(b->got == b->want, "%s returns %ld (%s) after %lld ms", b->name, b->got, b->error ? strerror(b->error) : "no error", b->took / MS);
    if (!b->least) continue;
    CHECK(b->took >= b->least - 2 * MS, "%s took only %lld ms of %lld", b->name, b->took / MS, b->least / MS);
    CHECK(b->took <= b->least + frozen_at_most + 400 * MS, "%s took %lld ms, not %lld (frozen: %lld)", b->name, b->took / MS,
          b->least / MS, frozen_at_most / MS);
  }
}
