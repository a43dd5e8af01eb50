// Memory that fills whole huge pages, and parts of such; with and without the program's word against huge pages: content, size and
// flags are what they were.
#include "proc.h"

static struct layout before, after;
enum { MIB = 1 << 20 };

int main(int argc, char **argv) {
  begin(argv);
  char *whole = MUST(mmap(0, 32 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  fill(whole, 32 * MIB, 1);
  MUST(munmap(whole + 11 * MIB, 4096));
  MUST(mprotect(whole + 20 * MIB, 5 * MIB, PROT_READ));
  char *holes = MUST(mmap(0, 16 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  fill(holes, 16 * MIB, 2);
  for (int i = 1; i < 16; i += 2) MUST(madvise(holes + i * MIB, 64 << 10, MADV_DONTNEED));
  char *refused = MUST(mmap(0, 8 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  madvise(refused, 8 * MIB, MADV_NOHUGEPAGE);
  fill(refused, 8 * MIB, 3);
  pid_t child = MUST(fork());
  if (child == 0) {
    fill(whole + 4 * MIB, MIB, 4);
    child_cycle("child");
    CHECK(filled(whole, 4 * MIB, 1) && filled(whole + 4 * MIB, MIB, 4), "the child's content");
    CHECK(filled(holes, MIB, 2), "what the child shares");
    _exit(0);
  }
  await("child");
  read_layout(&before, "/proc/self/smaps"), read_layout(&before, "/proc/self/smaps");
  cycle();
  read_layout(&after, "/proc/self/smaps");
  CHECK(filled(whole, 11 * MIB, 1), "content before the hole");
  for (int i = 12; i < 32; i++) {
    static char expected[32 * MIB];
    if (i == 12) fill(expected, sizeof expected, 1);
    CHECK(memcmp(whole + i * MIB, expected + i * MIB, MIB) == 0, "content at %d MiB", i);
  }
  for (int i = 1; i < 16; i += 2)
    for (int at = 0; at < 64 << 10; at += 512) CHECK(holes[i * MIB + at] == 0, "a dropped page is back at %d MiB", i);
  CHECK(filled(refused, 8 * MIB, 3), "content without huge pages");
  char *places[] = {whole, whole + 21 * MIB, holes, refused};
  for (int i = 0; i < 4; i++)
    CHECK(vma_at(&after, places[i])->rss <= vma_at(&before, places[i])->rss + 4, "%d grew from %ld to %ld kB", i,
          vma_at(&before, places[i])->rss, vma_at(&after, places[i])->rss);
  same_layout(&before, &after);
  child_passed(child);
  return pass();
}
