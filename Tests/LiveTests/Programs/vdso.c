// The vDSO is at its old address and works, also for a thread that was frozen inside it.
#include "proc.h"
#include <sys/auxv.h>

static struct layout before, after;
static volatile int go;
static volatile long calls;

static void *caller(void *none) {
  struct timespec t;
  for (long long last = 0; !go; calls++) {
    CHECK(clock_gettime(CLOCK_MONOTONIC, &t) == 0, "clock_gettime fails");
    long long now = t.tv_sec * 1000000000ll + t.tv_nsec;
    CHECK(now >= last, "the clock went back by %lld ns", last - now);
    last = now;
  }
  return none;
}

int main(int argc, char **argv) {
  begin(argv);
  pthread_t thread;
  CHECK(pthread_create(&thread, 0, caller, 0) == 0, "no thread");
  unsigned long start = getauxval(AT_SYSINFO_EHDR);
  read_layout(&before, "/proc/self/smaps"), read_layout(&before, "/proc/self/smaps");
  CHECK(vma_at(&before, (void *)start)->start == start, "auxv says %#lx", start);
  cycle();
  read_layout(&after, "/proc/self/smaps");
  CHECK(!strcmp(vma_at(&after, (void *)start)->name, "[vdso]"), "%s is at %#lx", vma_at(&after, (void *)start)->name, start);
  same_layout(&before, &after);
  long was = calls;
  const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_TAI};
  for (int i = 0; i < 6; i++) {
    struct timespec by_vdso, by_syscall;
    MUST(clock_gettime(clocks[i], &by_vdso)), MUST(syscall(SYS_clock_gettime, clocks[i], &by_syscall));
    long long apart = (by_syscall.tv_sec - by_vdso.tv_sec) * 1000000000ll + by_syscall.tv_nsec - by_vdso.tv_nsec;
    CHECK(apart >= 0 && apart < 500 * MS, "clock %d is off by %lld ns", clocks[i], apart);
  }
  unsigned cpu, node;
  CHECK(getcpu(&cpu, &node) == 0 && cpu < 4096, "CPU %u", cpu);
  nanosleep(&(struct timespec){0, 20 * MS}, 0);
  CHECK(calls > was, "the thread does not call any more");
  go = 1;
  pthread_join(thread, 0);
  return pass();
}
