// FS and GS base of each thread, and what thread-local storage makes of them.
#include "check.h"
#include <asm/prctl.h>

static __thread int mine = 7;
static int (*address_of_mine[2]);
static uint64_t island[2][4] = {{10, 11, 12, 13}, {20, 21, 22, 23}};
static volatile int go;

static void set_up(int i) {
  mine = 100 + i, address_of_mine[i] = &mine;
  MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, island[i]));
}

static void verify(int i) {
  unsigned long gs, fs;
  uint64_t through;
  MUST(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs)), MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs));
  CHECK(gs == (unsigned long)island[i], "thread %d: GS base is %#lx", i, gs);
  CHECK(fs == (unsigned long)pthread_self(), "thread %d: FS base is %#lx", i, fs);
  asm volatile("mov %%gs:16,%0" : "=r"(through));
  CHECK(through == island[i][2], "thread %d: %lu through GS", i, through);
  CHECK(&mine == address_of_mine[i] && mine == 100 + i, "thread %d: its variable is %d", i, mine);
}

static void *other(void *none) {
  set_up(1);
  here("other");
  while (!go) sched_yield();
  verify(1);
  return none;
}

int main(int argc, char **argv) {
  begin(argv);
  pthread_t thread;
  set_up(0);
  CHECK(pthread_create(&thread, 0, other, 0) == 0, "no thread");
  await("other");
  cycle();
  go = 1;
  verify(0);
  pthread_join(thread, 0);
  return pass();
}
