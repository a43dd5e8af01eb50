// Children made with another exit signal than SIGCHLD, or none.
#include "check.h"

static volatile sig_atomic_t signalled, by, code;
static void on_signal(int number, siginfo_t *info, void *context) { signalled = number, by = info->si_pid, code = info->si_code; }

static pid_t child_with(int exit_signal, const char *name) {
  pid_t pid = MUST(syscall(SYS_clone, exit_signal, 0, 0, 0, 0));
  if (pid == 0) child_cycle(name), await(strcat(strcpy((char[32]){0}, "end "), name)), _exit(0);
  await(name);
  return pid;
}

int main(int argc, char **argv) {
  begin(argv);
  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
  sigaction(SIGUSR1, &action, 0), sigaction(SIGCHLD, &action, 0);
  pid_t loud = child_with(SIGUSR1, "loud"), silent = child_with(0, "silent"), usual = child_with(SIGCHLD, "usual");
  cycle();
  CHECK(!signalled, "signal %d came", signalled);
  here("end loud");
  CHECK(waitpid(loud, 0, __WCLONE) == loud, "%s", strerror(errno));
  CHECK(signalled == SIGUSR1 && by == loud && code == CLD_EXITED, "signal %d from %d", signalled, by);
  signalled = 0, here("end silent");
  CHECK(waitpid(silent, 0, 0) == -1 && errno == ECHILD, "it can be waited for without __WCLONE");
  CHECK(waitpid(silent, 0, __WCLONE) == silent, "%s", strerror(errno));
  CHECK(!signalled, "signal %d came", signalled);
  here("end usual");
  CHECK(waitpid(usual, 0, 0) == usual, "%s", strerror(errno));
  CHECK(signalled == SIGCHLD && by == usual, "signal %d from %d", signalled, by);
  return pass();
}
