#define _GNU_SOURCE
#include "CLinux.h"
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

// Swift's runtime looks for the program's own file before anything of it runs, and aborts without a word of what to do where /proc does
// not lead there: in a PID namespace whose /proc is of another one, or where none is mounted.
__attribute__((constructor(101))) static void find_own_executable(void) {
  static const char message[] =
      "swift-restore: /proc/self/exe cannot be read: /proc is not mounted, or is that of another PID namespace\n"
      "  Mount the right one (mount -t proc proc /proc), or enter both namespaces (nsenter --pid --mount).\n";
  char path[1];
  if (readlink("/proc/self/exe", path, sizeof path) > 0) return;
  if (write(2, message, sizeof message - 1) < 0) _exit(2);
  _exit(1);
}

static const int *watched;
static size_t watched_count;

// A tracer is told of stops too, whatever it asks for (kernel/exit.c: wait_task_stopped), and those are not to be taken here.
static void take_dead(int signal) {
  (void)signal;
  for (size_t i = 0; i < watched_count; i++) {
    siginfo_t info = {0};
    const int options = WEXITED | WNOHANG | __WALL;
    cl_syscall(__NR_waitid, P_PID, watched[i], (long)&info, options | WNOWAIT, 0, 0);
    if (info.si_pid != 0 && (info.si_code == CLD_EXITED || info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED))
      cl_syscall(__NR_waitid, P_PID, watched[i], 0, options, 0, 0);
  }
}

void cl_take_dead(const int *tids, size_t count, int milliseconds) {
  struct sigaction action = {.sa_handler = take_dead, .sa_flags = SA_RESTART};
  struct timeval interval = {milliseconds / 1000, milliseconds % 1000 * 1000};
  struct itimerval timer = {interval, interval};
  watched = tids;
  watched_count = count;
  if (sigaction(SIGALRM, &action, 0) == 0) setitimer(ITIMER_REAL, &timer, 0);
}

extern long cl_clone_exec(struct cl_clone_args *args, int executable, char *const *argv, char *const *envp);
extern long cl_clone_beside(void *stack, void (*watch)(int child));

long cl_spawn(const struct cl_clone_args *args, int executable) {
  struct cl_clone_args shared = *args;
  char *argv[] = {(char *)"swift-restore-stub", 0};
  char *envp[] = {0};
  uint64_t all = UINT64_MAX, old;
  shared.flags |= CLONE_VM | CLONE_VFORK;
  // A handler would run in the child, too, and in its parent's memory.
  cl_syscall(__NR_rt_sigprocmask, SIG_SETMASK, (long)&all, (long)&old, 8, 0, 0);
  long pid = cl_clone_exec(&shared, executable, argv, envp);
  cl_syscall(__NR_rt_sigprocmask, SIG_SETMASK, (long)&old, 0, 8, 0, 0);
  return pid;
}

void cl_make_heap(size_t bytes) {
  void *volatile all = malloc(bytes);
  free(all);
}

void cl_drop_code(void) {
  extern const char __executable_start[], etext[];
  uintptr_t start = (uintptr_t)__executable_start, end = ((uintptr_t)etext + 4095) & ~4095ul;
  // Private, and never written: this takes nothing away but entries of the page table (man 2 madvise).
  madvise((void *)start, end - start, MADV_DONTNEED);
}

static uint64_t passed;

// Whatever the child has locked when it dies stays locked, and the two have one errno: nothing but system calls here.
__attribute__((no_sanitize("address", "thread", "undefined"))) static void watch(int child) {
  const uint64_t signals = passed | 1ull << (SIGCHLD - 1);
  while (1) {
    int status = 0;
    if (cl_syscall(__NR_wait4, child, (long)&status, WNOHANG, 0, 0, 0) == child)
      cl_syscall(__NR_exit_group, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), 0, 0, 0, 0, 0);
    long signal = cl_syscall(__NR_rt_sigtimedwait, (long)&signals, 0, 0, 8, 0, 0);
    if (signal > 0 && signal != SIGCHLD) cl_syscall(__NR_kill, child, SIGTERM, 0, 0, 0, 0);
  }
}

long cl_leave_to_child(uint64_t signals) {
  static _Alignas(16) char stack[64 << 10];
  passed = signals;
  return cl_clone_beside(stack + sizeof stack, watch);
}
