#define _GNU_SOURCE
#include "CLinux.h"
#include <signal.h>
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
