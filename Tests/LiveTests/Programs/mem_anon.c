// Private anonymous memory: content, holes, zero pages, every protection, at the same addresses and no bigger.
#include "proc.h"
#define PAGE 4096ul

static struct layout before, after;

int main(int argc, char **argv) {
  begin(argv);
  int rw = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
  char *all = MUST(mmap(0, 64 * PAGE, rw, flags, -1, 0));
  fill(all, 64 * PAGE, 1);
  char *thirds = MUST(mmap(0, 300 * PAGE, rw, flags, -1, 0));
  for (int i = 0; i < 300; i += 3) fill(thirds + i * PAGE, PAGE, i);
  char *hidden = MUST(mmap(0, 8 * PAGE, rw, flags, -1, 0));  // content under PROT_NONE
  fill(hidden, 8 * PAGE, 2);
  MUST(mprotect(hidden, 8 * PAGE, PROT_NONE));
  char *fixed = MUST(mmap(0, 8 * PAGE, rw, flags, -1, 0));
  fill(fixed, 8 * PAGE, 3);
  MUST(mprotect(fixed, 8 * PAGE, PROT_READ));
  unsigned char *code = MUST(mmap(0, PAGE, rw | PROT_EXEC, flags, -1, 0));
  memcpy(code, (unsigned char[]){0xb8, 42, 0, 0, 0, 0xc3}, 6);  // mov $42,%eax; ret
  char *never = MUST(mmap(0, 1ul << 30, PROT_NONE, flags, -1, 0));
  char *wide = MUST(mmap(0, 4ul << 30, rw, flags | MAP_NORESERVE, -1, 0));
  for (unsigned long i = 0; i < 4ul << 30; i += 512ul << 20) fill(wide + i, PAGE, i);
  char *zeros = MUST(mmap(0, 256 * PAGE, rw, flags, -1, 0));
  volatile long sum = 0;
  for (int i = 0; i < 256; i++) sum += zeros[i * PAGE];  // the zero page, 256 times
  char *split = MUST(mmap(0, 4 * PAGE, rw, flags, -1, 0));
  fill(split, 4 * PAGE, 4);
  MUST(munmap(split + PAGE, PAGE));
  read_layout(&before, "/proc/self/smaps"), read_layout(&before, "/proc/self/smaps");
  cycle();
  read_layout(&after, "/proc/self/smaps");
  long rss_before = 0, rss_after = 0;
  for (int i = 0; i < before.count; i++) rss_before += before.vmas[i].anonymous;
  for (int i = 0; i < after.count; i++) rss_after += after.vmas[i].anonymous;
  CHECK(rss_after <= rss_before + 256, "anonymous memory grew from %ld to %ld kB", rss_before, rss_after);
  same_layout(&before, &after);
  CHECK(filled(all, 64 * PAGE, 1), "content");
  for (int i = 0; i < 300; i++)
    if (i % 3 == 0) CHECK(filled(thirds + i * PAGE, PAGE, i), "page %d of the sparse mapping", i);
    else CHECK(thirds[i * PAGE] == 0 && !memcmp(thirds + i * PAGE, thirds + i * PAGE + 1, PAGE - 1), "page %d is not zero", i);
  CHECK(filled(fixed, 8 * PAGE, 3), "content of the read-only mapping");
  CHECK(read(open("/dev/zero", O_RDONLY), fixed, 1) < 0 && errno == EFAULT, "the read-only mapping can be written");
  MUST(mprotect(hidden, 8 * PAGE, PROT_READ));
  CHECK(filled(hidden, 8 * PAGE, 2), "content under PROT_NONE");
  CHECK(((int (*)(void))code)() == 42, "code");
  for (unsigned long i = 0; i < 4ul << 30; i += 512ul << 20) CHECK(filled(wide + i, PAGE, i), "content at %#lx", i);
  for (int i = 0; i < 256; i++) CHECK(zeros[i * PAGE] == 0, "page %d is not zero", i);
  CHECK(filled(split, PAGE, 4), "content beside a hole");
  MUST(mprotect(never, PAGE, rw)), *never = 1;
  return pass();
}
