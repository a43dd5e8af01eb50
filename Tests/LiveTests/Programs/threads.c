// Every thread keeps its TID, name, thread-local storage, signal mask and alternate stack, and can be joined.
#include "check.h"

#define N 6
static __thread uint64_t local[64];
static volatile int go;
static pid_t tids[N];
static int *tid_addresses[N];

static void *one(void *argument) {
  int i = (int)(long)argument;
  char name[16], now_name[16];
  sigset_t mask, now_mask;
  stack_t stack = {.ss_sp = malloc(32768 + i * 4096), .ss_size = 32768 + i * 4096}, now_stack;
  snprintf(name, sizeof name, "thread (%d) x", i);
  prctl(PR_SET_NAME, name);
  fill(local, sizeof local, i);
  sigemptyset(&mask), sigaddset(&mask, SIGRTMIN + i), sigaddset(&mask, 1 + i % 3);
  pthread_sigmask(SIG_SETMASK, &mask, 0);
  MUST(sigaltstack(&stack, 0));
  tids[i] = syscall(SYS_gettid);
  MUST(prctl(PR_GET_TID_ADDRESS, &tid_addresses[i]));
  char arrived[16];
  snprintf(arrived, sizeof arrived, "at%d", i);
  here(arrived);
  while (!go) nanosleep(&(struct timespec){0, MS}, 0);

  CHECK(syscall(SYS_gettid) == tids[i], "thread %d has TID %ld, not %d", i, syscall(SYS_gettid), tids[i]);
  prctl(PR_GET_NAME, now_name);
  CHECK(!strcmp(name, now_name), "\"%s\" is now \"%s\"", name, now_name);
  CHECK(filled(local, sizeof local, i), "thread %d lost its thread-local storage", i);
  pthread_sigmask(SIG_SETMASK, 0, &now_mask);
  CHECK(!memcmp(&mask, &now_mask, 8), "thread %d: mask %#lx is now %#lx", i, *(long *)&mask, *(long *)&now_mask);
  MUST(sigaltstack(0, &now_stack));
  CHECK(now_stack.ss_sp == stack.ss_sp && now_stack.ss_size == stack.ss_size && !now_stack.ss_flags, "thread %d: alternate stack", i);
  int *tid_address;
  MUST(prctl(PR_GET_TID_ADDRESS, &tid_address));
  CHECK(tid_address == tid_addresses[i] && *tid_address == tids[i], "thread %d: clear_child_tid is %p", i, tid_address);
  return (void *)(long)(1000 + i);
}

int main(int argc, char **argv) {
  begin(argv);
  pthread_t threads[N], later;
  for (long i = 0; i < N; i++) CHECK(pthread_create(&threads[i], 0, one, (void *)i) == 0, "no thread");
  for (int i = 0; i < N; i++) await((char[]){'a', 't', '0' + i, 0});
  MUST(prctl(PR_SET_NAME, "the leader"));
  cycle();
  char name[16];
  prctl(PR_GET_NAME, name);
  CHECK(!strcmp(name, "the leader"), "the leader's name is \"%s\"", name);
  CHECK(syscall(SYS_gettid) == getpid() && getpid() == root_pid, "PID %d is now %d", root_pid, getpid());
  go = 1;
  for (long i = 0; i < N; i++) {
    void *value;
    CHECK(pthread_join(threads[i], &value) == 0 && value == (void *)(1000 + i), "thread %ld ends with %p", i, value);
  }
  CHECK(pthread_create(&later, 0, stopwatch, 0) == 0, "no new thread can be made");
  return pass();
}
