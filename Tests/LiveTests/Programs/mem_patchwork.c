// Neighbours of all protections, far more than 4 MiB of them: filled wholly, partly, not at all, some without access to their content,
// with mappings of other kinds between them. Every byte and every protection is as it was, and what was not touched stays untouched.
#include "check.h"

#define COUNT 4096
#define PAGE 4096
#define PAGES 4  // of each mapping

static const int protections[] = {PROT_READ | PROT_WRITE, PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE | PROT_EXEC, PROT_READ | PROT_EXEC};
static unsigned char *area;

static int protection(int i) { return protections[i % 5]; }
static int has_page(int i, int page) { return i % 7 != 6 && (i % 3 ? page % 2 : 1); }
static int shared(int i) { return i % 1000 == 999; }
static unsigned char *at(int i, int page) { return area + ((size_t)i * PAGES + page) * PAGE; }

static void look(const char *when) {
  char line[256];
  FILE *maps = fopen("/proc/self/maps", "r");
  CHECK(maps, "no maps");
  int i = 0;
  while (fgets(line, sizeof line, maps)) {
    unsigned long start, end;
    char p[5];
    if (sscanf(line, "%lx-%lx %4s", &start, &end, p) != 3) continue;
    for (; i < COUNT && (unsigned long)at(i, 0) >= start && (unsigned long)at(i + 1, 0) <= end; i++) {
      int found = (p[0] == 'r' ? PROT_READ : 0) | (p[1] == 'w' ? PROT_WRITE : 0) | (p[2] == 'x' ? PROT_EXEC : 0);
      CHECK(found == protection(i), "%s: mapping %d is %s", when, i, p);
      CHECK((p[3] == 's') == shared(i), "%s: mapping %d is %s", when, i, p);
    }
  }
  fclose(maps);
  CHECK(i == COUNT, "%s: only %d of %d mappings are there", when, i, COUNT);
  int pagemap = open("/proc/self/pagemap", O_RDONLY);
  for (i = 0; i < COUNT; i++)
    for (int page = 0; page < PAGES; page++) {
      uint64_t word = 0;
      CHECK(pread(pagemap, &word, 8, (uintptr_t)at(i, page) / PAGE * 8) == 8, "no pagemap");
      if (!shared(i)) CHECK(has_page(i, page) == (word >> 62 != 0), "%s: mapping %d, page %d: %#llx", when, i, page, (unsigned long long)word);
    }
  close(pagemap);
  // Whoever filled the memory no longer watches it (Documentation/filesystems/proc.rst: VmFlags), and has left no descriptor.
  FILE *smaps = fopen("/proc/self/smaps", "r");
  while (fgets(line, sizeof line, smaps))
    CHECK(strncmp(line, "VmFlags:", 8) || (!strstr(line, " um") && !strstr(line, " uw") && !strstr(line, " ui")), "%s: %s", when, line);
  fclose(smaps);
  for (int fd = 3; fd < 64; fd++) CHECK(fcntl(fd, F_GETFD) < 0, "%s: descriptor %d is open", when, fd);
}

int main(int argc, char **argv) {
  begin(argv);
  area = mmap(0, (size_t)COUNT * PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(area != MAP_FAILED, "no memory");
  madvise(area, (size_t)COUNT * PAGES * PAGE, MADV_NOHUGEPAGE);
  for (int i = 0; i < COUNT; i++) {
    if (shared(i))
      CHECK(mmap(at(i, 0), PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at(i, 0), "no shared");
    for (int page = 0; page < PAGES; page++)
      if (has_page(i, page)) memset(at(i, page), i % 255 + 1, PAGE), *(int *)at(i, page) = i * PAGES + page;
    mprotect(at(i, 0), PAGES * PAGE, protection(i));
  }
  look("before");
  cycle();
  look("after");
  for (int i = 0; i < COUNT; i++) {
    mprotect(at(i, 0), PAGES * PAGE, PROT_READ | PROT_WRITE);
    for (int page = 0; page < PAGES; page++) {
      if (!has_page(i, page)) {
        CHECK(*at(i, page) == 0 && at(i, page)[PAGE - 1] == 0, "mapping %d, page %d is not empty", i, page);
        continue;
      }
      CHECK(*(int *)at(i, page) == i * PAGES + page, "mapping %d, page %d has %d", i, page, *(int *)at(i, page));
      for (int k = 4; k < PAGE; k++) CHECK(at(i, page)[k] == i % 255 + 1, "mapping %d, page %d, byte %d", i, page, k);
      memset(at(i, page), 0x55, PAGE);
    }
  }
  return pass();
}
