// Children and their children, who have done different things to the mappings they were born with: each has its own layout and content
// again, however much of it still is its parent's.
#include "proc.h"
#define PAGE 4096ul
#define REGION (16 * PAGE)
#define REGIONS 8
#define SIZE (REGIONS * REGION)
#define CHILDREN 14

static char *area, copy[SIZE];
static unsigned char present[SIZE / PAGE];
static int file;

static char *region(int i) { return area + i * REGION; }

// Of memory without access, too: /proc/self/mem reads it.
static void take(char *bytes, unsigned char *mapped) {
  int mem = MUST(open("/proc/self/mem", O_RDONLY | O_CLOEXEC));
  for (size_t at = 0; at < SIZE; at += PAGE) mapped[at / PAGE] = pread(mem, bytes + at, PAGE, (off_t)(uintptr_t)(area + at)) == (ssize_t)PAGE;
  close(mem);
}

static void map(int i, int pages, int protection, int flags, int fd, off_t offset) {
  MUST(mmap(region(i), pages * PAGE, protection, MAP_PRIVATE | MAP_FIXED | flags, fd, offset));
}

static void write_page(int i, int page, int letter, int protection) {
  MUST(mprotect(region(i), REGION, PROT_READ | PROT_WRITE));
  memset(region(i) + page * PAGE, letter, PAGE);
  MUST(mprotect(region(i), REGION, protection));
}

static void change(int child) {
  switch (child) {
    case 0: break;                                                                         // all as it was born
    case 1: write_page(2, 0, 'x', PROT_READ); break;                                       // its own page in read-only memory
    case 2: map(1, 16, PROT_READ, 0, file, 32 * PAGE); break;                              // another part of the file
    case 3: write_page(1, 1, 'y', PROT_READ | PROT_WRITE); break;                          // writable, with a page
    case 4: MUST(madvise(region(0), 3 * PAGE, MADV_DONTNEED)); break;                      // pages that only the parent has
    case 5: MUST(munmap(region(4) + 4 * PAGE, 4 * PAGE)), map(5, 2, PROT_NONE, MAP_ANONYMOUS, -1, 0); break;
    case 6: write_page(3, 2, 'z', PROT_NONE); break;                                       // content without access
    case 7: MUST(madvise(region(0), REGION, MADV_DONTDUMP)), MUST(mlock(region(4), PAGE)); break;
    case 8: MUST(munmap(area, SIZE)); break;
    case 9: for (int page = 0; page < 16; page++) write_page(4, page, 'a' + page, PROT_READ); break;
    case 10: MUST(mprotect(region(0), REGION, PROT_NONE)); break;                          // only the protection
    case 11: map(6, 16, PROT_READ | PROT_WRITE, MAP_ANONYMOUS, -1, 0); break;              // what was shared is private
    case 12: write_page(2, 5, 'w', PROT_READ), write_page(5, 0, 'v', PROT_READ | PROT_EXEC); break;
    case 13: MUST(mremap(region(4), REGION, REGION, MREMAP_MAYMOVE | MREMAP_FIXED, region(7))); break;
  }
}

static void check_cycle(const char *name) {
  static struct layout before, after;
  static char now[SIZE];
  static unsigned char mapped[SIZE / PAGE];
  read_layout(&before, "/proc/self/smaps");
  take(copy, present);
  if (name) child_cycle(name); else cycle();
  read_layout(&after, "/proc/self/smaps");
  take(now, mapped);
  same_layout(&before, &after);
  for (size_t page = 0; page < SIZE / PAGE; page++) {
    CHECK(mapped[page] == present[page], "%s: page %zu is mapped: %d", name ?: "parent", page, mapped[page]);
    CHECK(!memcmp(now + page * PAGE, copy + page * PAGE, PAGE), "%s: page %zu has '%c', not '%c'", name ?: "parent", page,
          now[page * PAGE], copy[page * PAGE]);
  }
}

int main(int argc, char **argv) {
  begin(argv);
  file = MUST(open(path_of("file"), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  char page[PAGE];
  for (int i = 0; i < 48; i++) memset(page, '0' + i, PAGE), CHECK(write(file, page, PAGE) == (ssize_t)PAGE, "the file");
  area = MUST(mmap(0, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  map(0, 16, PROT_READ | PROT_WRITE, MAP_ANONYMOUS, -1, 0), memset(region(0), 'A', 5 * PAGE);
  map(1, 16, PROT_READ, 0, file, 0);                                                       // nobody wrote to it
  map(2, 16, PROT_READ | PROT_WRITE, 0, file, PAGE), memset(region(2), 'C', 2 * PAGE), MUST(mprotect(region(2), REGION, PROT_READ));
  map(3, 16, PROT_READ | PROT_WRITE, MAP_ANONYMOUS, -1, 0), memset(region(3), 'D', 3 * PAGE), MUST(mprotect(region(3), REGION, PROT_NONE));
  map(4, 16, PROT_READ | PROT_WRITE, MAP_ANONYMOUS, -1, 0), memset(region(4), 'E', REGION);
  map(5, 4, PROT_READ | PROT_EXEC, 0, file, 8 * PAGE), map(6, 16, PROT_READ, 0, file, 16 * PAGE);
  MUST(mmap(region(6), REGION, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 20 * PAGE));
  pid_t pids[CHILDREN];
  char names[CHILDREN][8];
  for (int i = 0; i < CHILDREN; i++) {
    snprintf(names[i], sizeof names[i], "c%d", i);
    if ((pids[i] = MUST(fork())) == 0) {
      change(i);
      // A child of its own does something else to what has become of it.
      pid_t own = 0;
      if (i % 2 == 0) {
        names[i][0] = 'g';
        if ((own = MUST(fork())) == 0) {
          change(i == 8 ? 0 : (i + 5) % CHILDREN);
          check_cycle(names[i]);
          _exit(0);
        }
        await(names[i]), names[i][0] = 'c';
      }
      check_cycle(names[i]);
      if (own) child_passed(own);
      _exit(0);
    }
  }
  for (int i = 0; i < CHILDREN; i++) await(names[i]);
  // Of these nobody else has any more.
  memset(region(0), 'P', PAGE), write_page(3, 0, 'Q', PROT_NONE), write_page(1, 7, 'R', PROT_READ), write_page(5, 2, 'S', PROT_READ | PROT_EXEC);
  check_cycle(0);
  for (int i = 0; i < CHILDREN; i++) child_passed(pids[i]);
  return pass();
}
