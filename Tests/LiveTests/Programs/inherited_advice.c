// Children and what advice makes of the memory they were born with: wiped at their birth, guarded, or dropped when memory is short.
// Each has its own content and advice again, whatever its parent has at the same place.
#include "proc.h"
#define PAGE 4096ul
#define PAGES 8
#define REGION (PAGES * PAGE)
#define CHILDREN 7
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

enum { WIPED, KEPT, GUARDED, FREE, DROPPABLE, REGIONS };
static char *regions[REGIONS];

static char *page(int region, int number) { return regions[region] + number * PAGE; }
static void fill_region(int region, int letter) { memset(regions[region], letter, REGION); }

// The first byte of each page, or '!' where there is a guard.
static void look(char *seen) {
  int mem = MUST(open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
  for (int r = 0; r < REGIONS; r++)
    for (int p = 0; p < PAGES; p++, seen++)
      if (!regions[r] || pread(mem, seen, 1, (off_t)(uintptr_t)page(r, p)) != 1) *seen = '!';
  close(mem);
}

static void change(int child) {
  switch (child) {
    case 0: break;                                                                    // all as it was born
    case 1: fill_region(WIPED, 'w'); break;                                                  // its own content
    case 2: MUST(madvise(regions[WIPED], REGION, MADV_KEEPONFORK)), *page(WIPED, 3) = 'k'; break;
    case 3: MUST(madvise(regions[KEPT], REGION, MADV_WIPEONFORK)); break;             // its parent's content, and other advice
    case 4: MUST(madvise(regions[GUARDED], REGION, MADV_GUARD_REMOVE)), *page(GUARDED, 2) = 'r'; break;
    case 5: MUST(madvise(page(FREE, 1), 3 * PAGE, MADV_GUARD_INSTALL)); break;        // where the parent has pages
    case 6: fill_region(KEPT, 'o'), *page(GUARDED, 0) = 'g', MUST(madvise(regions[FREE], REGION, MADV_DONTNEED)); break;
  }
}

static void check_cycle(const char *name) {
  static struct layout before, after;
  char then[REGIONS * PAGES], now[REGIONS * PAGES];
  read_layout(&before, "/proc/self/smaps");
  look(then);
  if (name) child_cycle(name); else cycle();
  read_layout(&after, "/proc/self/smaps");
  look(now);
  same_layout(&before, &after);
  for (int i = 0; i < REGIONS * PAGES; i++)
    // The kernel may have taken what is droppable.
    CHECK(now[i] == then[i] || (i / PAGES == DROPPABLE && !now[i]), "%s: page %d of region %d has '%c', not '%c'", name ?: "parent",
          i % PAGES, i / PAGES, now[i], then[i]);
}

int main(int argc, char **argv) {
  begin(argv);
  for (int r = 0; r < REGIONS; r++) {
    // One that lies apart from its neighbours: they would be one mapping.
    int flags = MAP_ANONYMOUS | (r == DROPPABLE ? MAP_DROPPABLE : MAP_PRIVATE);
    regions[r] = mmap(0, REGION, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (regions[r] == MAP_FAILED && r == DROPPABLE) regions[r] = 0;  // Linux before 6.11
    CHECK(regions[r] != MAP_FAILED, "region %d", r);
    if (r < DROPPABLE) MUST((long)mmap(0, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (regions[r]) fill_region(r, 'A' + r);
  }
  MUST(madvise(regions[WIPED], REGION, MADV_WIPEONFORK));
  if (madvise(page(GUARDED, 2), 2 * PAGE, MADV_GUARD_INSTALL)) skip("Linux before 6.13 has no guard regions");
  pid_t pids[CHILDREN];
  char names[CHILDREN][8];
  for (int i = 0; i < CHILDREN; i++) {
    snprintf(names[i], sizeof names[i], "c%d", i);
    if ((pids[i] = MUST(fork())) == 0) change(i), check_cycle(names[i]), _exit(0);
  }
  for (int i = 0; i < CHILDREN; i++) await(names[i]);
  // Of these nobody else has any more.
  *page(KEPT, 5) = 'P', *page(GUARDED, 7) = 'Q', fill_region(WIPED, 'R');
  check_cycle(0);
  for (int i = 0; i < CHILDREN; i++) child_passed(pids[i]);
  return pass();
}
