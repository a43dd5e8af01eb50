// The disposition of every signal, to the last bit of the kernel's structure.
#include "check.h"

struct kernel_action { void *handler; unsigned long flags; void *restorer; unsigned long mask; };

static int get(int number, struct kernel_action *action) { return syscall(SYS_rt_sigaction, number, 0, action, 8); }
static volatile int came;
static void one(int number) { came = number; }
static void three(int number, siginfo_t *info, void *context) { came = 1000 + number; }

int main(int argc, char **argv) {
  begin(argv);
  static struct kernel_action before[65], after;
  for (int number = 1; number <= SIGRTMAX; number++) {
    struct sigaction action = {.sa_flags = (number % 2 ? SA_RESTART : 0) | (number % 3 ? 0 : SA_NODEFER) | (number % 5 ? 0 : SA_ONSTACK)};
    sigemptyset(&action.sa_mask), sigaddset(&action.sa_mask, number % 31 + 1), sigaddset(&action.sa_mask, SIGRTMIN + number % 20);
    switch (number % 4) {
      case 0: action.sa_handler = one; break;
      case 1: action.sa_sigaction = three, action.sa_flags |= SA_SIGINFO; break;
      case 2: action.sa_handler = SIG_IGN; break;
      case 3: action.sa_handler = SIG_DFL; break;
    }
    if (number == SIGCHLD) action.sa_flags |= SA_NOCLDSTOP | SA_NOCLDWAIT;
    sigaction(number, &action, 0);  // fails for SIGKILL, SIGSTOP and glibc's own two
  }
  for (int number = 1; number <= SIGRTMAX; number++) MUST(get(number, &before[number]));
  cycle();
  for (int number = 1; number <= SIGRTMAX; number++) {
    MUST(get(number, &after));
    CHECK(!memcmp(&after, &before[number], sizeof after), "signal %d: handler %p flags %#lx mask %#lx, was %p %#lx %#lx", number,
          after.handler, after.flags, after.mask, before[number].handler, before[number].flags, before[number].mask);
  }
  raise(SIGUSR2), CHECK(came == SIGUSR2, "%d came", came);
  raise(SIGRTMIN + 3), CHECK(came == 1000 + SIGRTMIN + 3, "%d came", came);
  return pass();
}
