// The rseq registration of every thread (glibc made it), and a critical section that a thread was frozen in.
#include "check.h"
#include <linux/rseq.h>
#include <sys/rseq.h>

static volatile int go;
static volatile int entries;
static struct rseq *section_area;

static struct rseq *area(void) { return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset); }

static void follows_the_cpu(const char *who) {
  cpu_set_t all, one;
  MUST(sched_getaffinity(0, sizeof all, &all));
  for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
    if (!CPU_ISSET(cpu, &all)) continue;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    MUST(sched_setaffinity(0, sizeof one, &one));
    CHECK((int)((volatile struct rseq *)area())->cpu_id == cpu, "%s runs on CPU %d, its rseq area says %d", who, cpu, (int)area()->cpu_id);
  }
  MUST(sched_setaffinity(0, sizeof all, &all));
}

static void can_unregister(const char *who) {
  // Only the address, size and signature that are registered can be unregistered.
  unsigned size = __rseq_size < 32 ? 32 : __rseq_size;
  CHECK(syscall(SYS_rseq, area(), size, RSEQ_FLAG_UNREGISTER, RSEQ_SIG) == 0, "%s: %s", who, strerror(errno));
}

// Spins inside a critical section; every abort enters it again. The kernel clears rseq_cs when it finds the thread
// outside the section, so a tool that lets that happen leaves the thread inside with nothing to abort it.
static void *in_section(void *none) {
  section_area = area();
  here("section");
  asm volatile(
      ".pushsection __rseq_cs, \"aw\"\n .balign 32\n 3: .long 0,0\n .quad 1f,2f-1f,4f\n .popsection\n"
      "5: incl %0\n lea 3b(%%rip),%%rax\n mov %%rax,%1\n"
      "1: cmpl $0,%2\n je 1b\n"
      "2: jmp 6f\n"
      ".long 0x53053053\n 4: jmp 5b\n"
      "6:\n"
      : "+m"(entries) : "m"(section_area->rseq_cs), "m"(go) : "rax", "memory", "cc");
  follows_the_cpu("the thread");
  can_unregister("the thread");
  return none;
}

int main(int argc, char **argv) {
  begin(argv);
  if (__rseq_size == 0) skip("glibc has not registered rseq");
  pthread_t thread;
  CHECK(pthread_create(&thread, 0, in_section, 0) == 0, "no thread");
  await("section");
  cycle();
  int inside = 0;
  for (int i = 0; i < 50; i++) {
    inside += ((volatile struct rseq *)section_area)->rseq_cs != 0;
    nanosleep(&(struct timespec){0, 2 * MS}, 0);
  }
  CHECK(inside >= 25, "the thread is in its critical section, but rseq_cs was set only %d times of 50", inside);
  CHECK(entries > 0, "it never entered");
  go = 1;
  pthread_join(thread, 0);
  follows_the_cpu("the leader");
  can_unregister("the leader");
  return pass();
}
