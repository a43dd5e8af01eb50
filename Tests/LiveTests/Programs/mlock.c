// Locked memory: mlock, mlock2 with MLOCK_ONFAULT (which must stay unpopulated), and what was never locked.
#include "proc.h"
#define PAGE 4096ul

static struct layout before, after;

int main(int argc, char **argv) {
  begin(argv);
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  char *locked = MUST(mmap(0, 16 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0));
  char *on_fault = MUST(mmap(0, 512 * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0));
  char *none = MUST(mmap(0, 16 * PAGE, PROT_NONE, flags | MAP_LOCKED, -1, 0));
  MUST(mprotect(on_fault + 256 * PAGE, 256 * PAGE, PROT_READ));
  if (mlock(locked, 16 * PAGE) || mlock2(on_fault, 512 * PAGE, MLOCK_ONFAULT)) skip(strerror(errno));
  fill(locked, 16 * PAGE, 1), fill(on_fault, 2 * PAGE, 2);
  read_layout(&before, "/proc/self/smaps"), read_layout(&before, "/proc/self/smaps");
  cycle();
  read_layout(&after, "/proc/self/smaps");
  CHECK(strstr(vma_at(&after, locked)->flags, "lo"), "%s", vma_at(&after, locked)->flags);
  CHECK(vma_at(&after, locked)->locked == 64, "%ld kB are locked", vma_at(&after, locked)->locked);
  CHECK(strstr(vma_at(&after, on_fault)->flags, "lo"), "%s", vma_at(&after, on_fault)->flags);
  CHECK(vma_at(&after, on_fault)->rss <= 16, "%ld kB of what is locked on fault are there", vma_at(&after, on_fault)->rss);
  CHECK(strstr(vma_at(&after, none)->flags, "lo"), "%s", vma_at(&after, none)->flags);
  same_layout(&before, &after);
  CHECK(filled(locked, 16 * PAGE, 1) && filled(on_fault, 2 * PAGE, 2), "content");
  return pass();
}
