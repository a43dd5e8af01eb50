// Signal mask and alternate stack of the leader, and the handler that runs on that stack afterwards.
#include "check.h"

static char area[65536] __attribute__((aligned(16)));
static volatile int on_stack;
static void handler(int number) {
  char local;
  on_stack = &local > area && &local < area + sizeof area ? 1 : -1;
}

int main(int argc, char **argv) {
  begin(argv);
  struct sigaction action = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
  sigaction(SIGUSR1, &action, 0);
  stack_t stack = {.ss_sp = area, .ss_size = sizeof area, .ss_flags = 1 << 31 /* SS_AUTODISARM */}, now_stack;
  MUST(sigaltstack(&stack, 0));
  uint64_t mask = 0xfffffffe5a5a5bffull & ~(1ull << (SIGCHLD - 1)) & ~(1ull << (SIGUSR1 - 1)), now = 0;
  mask &= ~(1ull << (SIGKILL - 1)) & ~(1ull << (SIGSTOP - 1));
  MUST(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, 0, 8));
  cycle();
  MUST(syscall(SYS_rt_sigprocmask, SIG_SETMASK, 0, &now, 8));
  CHECK(now == mask, "%#lx is now %#lx", mask, now);
  MUST(sigaltstack(0, &now_stack));
  CHECK(now_stack.ss_sp == area && now_stack.ss_size == sizeof area, "the stack is at %p", now_stack.ss_sp);
  CHECK(now_stack.ss_flags == stack.ss_flags, "its flags are %#x", now_stack.ss_flags);
  raise(SIGUSR1);
  CHECK(on_stack == 1, "the handler ran elsewhere");
  MUST(syscall(SYS_rt_sigprocmask, SIG_SETMASK, 0, &now, 8));
  CHECK(now == mask, "after the handler the mask is %#lx", now);
  return pass();
}
