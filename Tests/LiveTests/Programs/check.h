// The protocol of every live program:
//   begin(argv)        argv[1] is the base path
//   ... set up the state ...
//   cycle()            create BASE ("ready"), then wait until BASE.check exists; the dump and restore happen here
//   ... CHECK(...) everything ...
//   return pass();     write PASS to BASE.result; the first FAIL of any task of the tree wins over it
// skip("why") before cycle() says that this machine cannot show the feature.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char base[512];
static pid_t root_pid;

static inline void result(const char *text) {
  char draft[600], final[600];
  snprintf(draft, sizeof draft, "%s.draft.%d", base, (int)syscall(SYS_gettid));
  snprintf(final, sizeof final, "%s.result", base);
  int fd = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) _exit(4);
  close(fd);
  link(draft, final);  // Fails where a verdict is already there: the first one counts.
  unlink(draft);
}

static inline void __attribute__((noreturn, format(printf, 3, 4))) fail(const char *file, int line, const char *format, ...) {
  char why[900], text[1024];
  va_list list;
  va_start(list, format);
  vsnprintf(why, sizeof why, format, list);
  va_end(list);
  snprintf(text, sizeof text, "FAIL: %s:%d: %s\n", file, line, why);
  result(text);
  syscall(SYS_exit_group, 1);
  __builtin_unreachable();
}

// CHECK(condition, "format", ...): the claim, and what was seen instead.
#define CHECK(condition, ...) ((condition) ? (void)0 : fail(__FILE__, __LINE__, #condition ": " __VA_ARGS__))

// MUST(call): a call of the set-up, or one whose failure is itself the finding.
#define MUST(call) \
  ({ __typeof__(call) returned_ = (call); \
     if (returned_ == (__typeof__(call)) - 1) fail(__FILE__, __LINE__, "%s: %s", #call, strerror(errno)); \
     returned_; })

static inline int __attribute__((unused)) pass(void) {
  result("PASS\n");
  return 0;
}

static inline void __attribute__((unused, noreturn)) skip(const char *why) {
  char text[300];
  snprintf(text, sizeof text, "SKIP: %s\n", why);
  result(text);
  _exit(77);
}

static inline char *path_of(const char *name) {
  static __thread char path[600];
  snprintf(path, sizeof path, "%s%s%s", base, *name ? "." : "", name);
  return path;
}

static inline void begin(char **argv) {
  snprintf(base, sizeof base, "%s", argv[1]);
  root_pid = getpid();
}

// A task says that it is where it wants to be frozen.
static inline void here(const char *name) { close(MUST(open(path_of(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0666))); }

// Waits for a file. It gives up after a minute of its own running time, so that no test leaves a task behind.
static inline void await(const char *name) {
  struct stat st;
  for (int i = 0; i < 6000; i++) {
    if (stat(path_of(name), &st) == 0) return;
    nanosleep(&(struct timespec){0, 10 * 1000 * 1000}, 0);
  }
  fail(__FILE__, __LINE__, "nobody made %s", path_of(name));
}

static inline void cycle(void) { here(""), await("check"); }

// For a child: it has arrived, and waits for the check. The parent awaits NAME before its own cycle().
static inline void __attribute__((unused)) child_cycle(const char *name) { here(name), await("check"); }

static inline void __attribute__((unused)) child_passed(pid_t pid) {
  int status;
  pid_t got;
  do got = waitpid(pid, &status, __WALL);
  while (got < 0 && errno == EINTR);
  CHECK(got == pid, "waitpid %d: %s", pid, strerror(errno));
  CHECK(status == 0, "child %d ended with status %#x", pid, status);
}

static inline long long now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

#define MS 1000000ll

// Two stopwatch threads: how long the tree was frozen, as the tree sees it. Loaded machines make gaps too. `frozen_at_least` is the
// longest gap of a thread that need not wait for a processor (if this user may have such a one), `frozen_at_most` the sum of all gaps of
// one that waits for it as the program does.
static volatile long long frozen_at_least, frozen_at_most;

static inline void *stopwatch(void *is_prompt) {
  if (is_prompt) setpriority(PRIO_PROCESS, syscall(SYS_gettid), -20);
  for (long long before = now_ns();;) {
    nanosleep(&(struct timespec){0, MS}, 0);
    long long after = now_ns(), gap = after - before;
    if (is_prompt && gap > frozen_at_least) frozen_at_least = gap;
    if (!is_prompt && gap > 5 * MS) frozen_at_most += gap;
    before = after;
  }
  return 0;
}

static inline void __attribute__((unused)) start_stopwatch(void) {
  pthread_t thread;
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  for (long i = 0; i < 2; i++) CHECK(pthread_create(&thread, 0, stopwatch, (void *)i) == 0, "no thread");
  pthread_sigmask(SIG_SETMASK, &old, 0);
}

// xorshift64: content that neither compresses nor repeats.
static inline void __attribute__((unused)) fill(void *start, size_t bytes, uint64_t seed) {
  uint64_t x = seed * 0x9E3779B97F4A7C15ull + 1;
  for (size_t i = 0; i < bytes / 8; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    ((uint64_t *)start)[i] = x;
  }
}

static inline int __attribute__((unused)) filled(const void *start, size_t bytes, uint64_t seed) {
  uint64_t x = seed * 0x9E3779B97F4A7C15ull + 1;
  for (size_t i = 0; i < bytes / 8; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    if (((const uint64_t *)start)[i] != x) return 0;
  }
  return 1;
}
