// Transparent huge pages: content, the advice, no growth; and a process that has switched them off.
#include "proc.h"
#ifndef PR_GET_THP_DISABLE
#error "an old kernel's headers"
#endif

static struct layout before, after;

int main(int argc, char **argv) {
  begin(argv);
  char *area = MUST(mmap(0, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  madvise(area, 16 << 20, MADV_HUGEPAGE);
  fill(area, 8 << 20, 1);
  pid_t child = MUST(fork());
  if (child == 0) {
    MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    child_cycle("child");
    CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1, "they are allowed again");
    _exit(0);
  }
  await("child");
  read_layout(&before, "/proc/self/smaps"), read_layout(&before, "/proc/self/smaps");
  cycle();
  read_layout(&after, "/proc/self/smaps");
  CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0, "they are forbidden");
  CHECK(filled(area, 8 << 20, 1) && area[12 << 20] == 0, "content");
  CHECK(vma_at(&after, area)->rss <= vma_at(&before, area)->rss + 2048 + 4, "it grew from %ld to %ld kB",
        vma_at(&before, area)->rss, vma_at(&after, area)->rss);
  same_layout(&before, &after);
  child_passed(child);
  return pass();
}
