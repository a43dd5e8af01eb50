// signalfd: its mask, signals pending for it, flags.
#include "check.h"
#include <sys/signalfd.h>

int main(int argc, char **argv) {
  begin(argv);
  sigset_t two, one;
  sigemptyset(&two), sigaddset(&two, SIGUSR1), sigaddset(&two, SIGRTMIN + 30), sigprocmask(SIG_BLOCK, &two, 0);
  sigemptyset(&one), sigaddset(&one, SIGUSR1);
  int both = MUST(signalfd(-1, &two, SFD_NONBLOCK | SFD_CLOEXEC)), single = MUST(signalfd(-1, &one, SFD_NONBLOCK));
  raise(SIGUSR1), sigqueue(getpid(), SIGRTMIN + 30, (union sigval){99});
  cycle();
  struct signalfd_siginfo info;
  CHECK(read(single, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1, "the single one");
  CHECK(read(single, &info, sizeof info) == -1 && errno == EAGAIN, "its mask is larger");
  CHECK(read(both, &info, sizeof info) == sizeof info && info.ssi_signo == (uint32_t)SIGRTMIN + 30 && info.ssi_int == 99, "the other");
  CHECK(fcntl(both, F_GETFD) == FD_CLOEXEC && fcntl(single, F_GETFD) == 0, "close-on-exec");
  raise(SIGUSR1);
  CHECK(read(both, &info, sizeof info) == sizeof info && info.ssi_signo == SIGUSR1 && info.ssi_pid == (uint32_t)getpid(), "a new signal");
  return pass();
}
