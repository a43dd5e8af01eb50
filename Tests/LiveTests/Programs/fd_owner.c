// Who gets the signals of a descriptor: F_SETOWN with a process, a group, a thread; F_SETSIG; O_ASYNC.
#include "check.h"
#ifndef F_SETOWN_EX
#error "glibc lacks F_SETOWN_EX"
#endif

int main(int argc, char **argv) {
  begin(argv);
  int pipes[4][2];
  sigset_t set;
  sigemptyset(&set), sigaddset(&set, SIGRTMIN + 4), sigprocmask(SIG_BLOCK, &set, 0);
  for (int i = 0; i < 4; i++) MUST(pipe(pipes[i]));
  struct f_owner_ex thread = {F_OWNER_TID, getpid()}, now;
  MUST(fcntl(pipes[0][0], F_SETOWN, getpid())), MUST(fcntl(pipes[0][0], F_SETSIG, SIGRTMIN + 4)), MUST(fcntl(pipes[0][0], F_SETFL, O_ASYNC));
  MUST(fcntl(pipes[1][0], F_SETOWN, -getpgrp()));
  MUST(fcntl(pipes[2][0], F_SETOWN_EX, &thread)), MUST(fcntl(pipes[2][0], F_SETSIG, SIGUSR2));
  cycle();
  MUST(fcntl(pipes[0][0], F_GETOWN_EX, &now));
  CHECK(now.type == F_OWNER_PID && now.pid == getpid() && fcntl(pipes[0][0], F_GETSIG) == SIGRTMIN + 4, "process: %d %d", now.type, now.pid);
  MUST(fcntl(pipes[1][0], F_GETOWN_EX, &now));
  CHECK(now.type == F_OWNER_PGRP && now.pid == getpgrp() && fcntl(pipes[1][0], F_GETSIG) == 0, "group: %d %d", now.type, now.pid);
  MUST(fcntl(pipes[2][0], F_GETOWN_EX, &now));
  CHECK(now.type == F_OWNER_TID && now.pid == getpid() && fcntl(pipes[2][0], F_GETSIG) == SIGUSR2, "thread: %d %d", now.type, now.pid);
  MUST(fcntl(pipes[3][0], F_GETOWN_EX, &now));
  CHECK(now.pid == 0, "nobody: %d", now.pid);
  CHECK(fcntl(pipes[0][0], F_GETFL) & O_ASYNC, "O_ASYNC is lost");
  siginfo_t info;
  CHECK(sigtimedwait(&set, &info, &(struct timespec){0, 0}) == -1, "restore made a signal");
  MUST(write(pipes[0][1], "x", 1));
  CHECK(sigtimedwait(&set, &info, &(struct timespec){2, 0}) == SIGRTMIN + 4 && info.si_fd == pipes[0][0], "no signal, or of descriptor %d", info.si_fd);
  return pass();
}
