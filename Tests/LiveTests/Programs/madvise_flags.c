// Every madvise flag that smaps shows is on the same mappings as before; MAP_NORESERVE too.
#include "proc.h"

static struct layout before, after;

int main(int argc, char **argv) {
  begin(argv);
  const struct { int advice, flags; const char *shows; } all[] = {
      {MADV_DONTFORK, 0, "dc"}, {MADV_DONTDUMP, 0, "dd"}, {MADV_MERGEABLE, 0, "mg"}, {MADV_HUGEPAGE, 0, "hg"},
      {MADV_NOHUGEPAGE, 0, "nh"}, {MADV_WIPEONFORK, 0, "wf"}, {MADV_SEQUENTIAL, 0, "sr"}, {MADV_RANDOM, 0, "rr"},
      {MADV_NORMAL, MAP_NORESERVE, "nr"}, {MADV_DONTFORK, MAP_SHARED, "dc"},
  };
  int count = sizeof all / sizeof *all;
  char *start[count];
  int set[count];
  for (int i = 0; i < count; i++) {
    int sharing = all[i].flags & MAP_SHARED ? MAP_SHARED : MAP_PRIVATE | all[i].flags;
    start[i] = MUST(mmap(0, 4 << 20, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0));
    MUST(mmap(0, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    set[i] = madvise(start[i], 4 << 20, all[i].advice) == 0;  // MERGEABLE and HUGEPAGE may not be built in.
    fill(start[i], 8192, i);
  }
  read_layout(&before, "/proc/self/smaps"), read_layout(&before, "/proc/self/smaps");
  for (int i = 0; i < count; i++)
    CHECK(!set[i] || strstr(vma_at(&before, start[i])->flags, all[i].shows), "%d: %s", i, vma_at(&before, start[i])->flags);
  cycle();
  read_layout(&after, "/proc/self/smaps");
  for (int i = 0; i < count; i++) {
    CHECK(!set[i] || strstr(vma_at(&after, start[i])->flags, all[i].shows), "%s is lost: %s", all[i].shows, vma_at(&after, start[i])->flags);
    CHECK(filled(start[i], 8192, i), "content");
  }
  same_layout(&before, &after);
  return pass();
}
