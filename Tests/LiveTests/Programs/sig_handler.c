// Frozen inside nested handlers, one of them on the alternate stack, a thread returns through all of them.
#include "check.h"

static char area[65536];
static volatile int returned;

static void inner(int number, siginfo_t *info, void *context) {
  cycle();
  CHECK(number == SIGUSR2 && info->si_code == SI_QUEUE && info->si_value.sival_int == 4711, "siginfo is lost");
  returned |= 1;
}
static void outer(int number) {
  sigqueue(getpid(), SIGUSR2, (union sigval){4711});
  returned |= 2;
}

int main(int argc, char **argv) {
  begin(argv);
  MUST(sigaltstack(&(stack_t){.ss_sp = area, .ss_size = sizeof area}, 0));
  struct sigaction first = {.sa_handler = outer}, second = {.sa_sigaction = inner, .sa_flags = SA_ONSTACK | SA_SIGINFO};
  sigaddset(&second.sa_mask, SIGTERM);
  sigaction(SIGUSR1, &first, 0), sigaction(SIGUSR2, &second, 0);
  sigset_t mask;
  sigemptyset(&mask), sigaddset(&mask, SIGWINCH), sigprocmask(SIG_SETMASK, &mask, 0);
  volatile double kept = 2.5;
  raise(SIGUSR1);
  CHECK(returned == 3 && kept == 2.5, "%d", returned);
  sigprocmask(SIG_SETMASK, 0, &mask);
  CHECK(sigismember(&mask, SIGWINCH) && !sigismember(&mask, SIGUSR1) && !sigismember(&mask, SIGUSR2) && !sigismember(&mask, SIGTERM), "mask");
  return pass();
}
