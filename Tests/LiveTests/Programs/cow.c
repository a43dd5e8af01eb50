// Memory that relatives share copy-on-write is still shared after restore, and still private to each when written.
#include "proc.h"
#define SIZE (64ul << 20)
#define CHILDREN 4

static long memory_of(pid_t pid, char *start) {  // kB, each page counted by its share
  static struct layout layout;
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/smaps", pid);
  read_layout(&layout, path);
  return vma_at(&layout, start)->pss;
}

int main(int argc, char **argv) {
  begin(argv);
  char *area = MUST(mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  MUST(madvise(area, SIZE, MADV_NOHUGEPAGE));
  fill(area, SIZE, 1);
  pid_t pids[CHILDREN];
  for (int i = 0; i < CHILDREN; i++)
    if ((pids[i] = MUST(fork())) == 0) {
      CHECK(filled(area, SIZE, 1), "content before the cycle");
      memset(area + i * 65536, 'a' + i, 65536);  // its own
      child_cycle((char[]){'c', '0' + i, 0}), await("look");
      CHECK(area[i * 65536] == 'a' + i && area[i * 65536 + 65535] == 'a' + i, "child %d: its own pages", i);
      CHECK(area[5 * 65536] != 'p', "child %d sees its parent's new page", i);
      _exit(0);
    }
  for (int i = 0; i < CHILDREN; i++) await((char[]){'c', '0' + i, 0});
  long before = memory_of(getpid(), area);
  for (int i = 0; i < CHILDREN; i++) before += memory_of(pids[i], area);
  cycle();
  long after = memory_of(getpid(), area);
  for (int i = 0; i < CHILDREN; i++) after += memory_of(pids[i], area);
  CHECK(after <= before + before / 8, "%ld kB became %ld kB", before, after);
  CHECK(filled(area, SIZE, 1), "content");
  memset(area + 5 * 65536, 'p', 4096), here("look");
  for (int i = 0; i < CHILDREN; i++) child_passed(pids[i]);
  return pass();
}
