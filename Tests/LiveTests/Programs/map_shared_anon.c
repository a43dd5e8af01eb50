// Shared anonymous memory: shared between the right tasks, mapped twice, mapped in part, and through /dev/zero.
#include "check.h"
#define PAGE 4096ul

int main(int argc, char **argv) {
  begin(argv);
  int rw = PROT_READ | PROT_WRITE;
  char *family = MUST(mmap(0, 64 * PAGE, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  char *other = MUST(mmap(0, 4 * PAGE, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  char *twice = MUST(mremap(other, 0, 4 * PAGE, MREMAP_MAYMOVE));  // a second mapping of the same memory
  char *zero = MUST(mmap(0, 2 * PAGE, rw, MAP_SHARED, MUST(open("/dev/zero", O_RDWR)), 0));
  char *readonly = MUST(mmap(0, 2 * PAGE, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  fill(family + 5 * PAGE, 3 * PAGE, 1), fill(family + 60 * PAGE, PAGE, 2), fill(other, 4 * PAGE, 3);
  fill(zero, 2 * PAGE, 4), fill(readonly, 2 * PAGE, 5);
  MUST(mprotect(readonly, 2 * PAGE, PROT_READ));
  pid_t children[2];
  for (int i = 0; i < 2; i++)
    if ((children[i] = MUST(fork())) == 0) {
      if (i) munmap(family, 32 * PAGE);  // the second child keeps the upper half, elsewhere
      char *mine = i ? MUST(mremap(family + 32 * PAGE, 32 * PAGE, 32 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, family - (1ul << 30))) : family;
      char *own = MUST(mmap(0, PAGE, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
      fill(own, PAGE, 100 + i);
      child_cycle(i ? "second" : "first");
      char *page60 = i ? mine + 28 * PAGE : mine + 60 * PAGE;
      CHECK(filled(page60, PAGE, 2), "child %d: content", i);
      CHECK(filled(own, PAGE, 100 + i), "child %d: its own shared memory", i);
      await("written");
      char *page40 = i ? mine + 8 * PAGE : mine + 40 * PAGE;
      CHECK(filled(page40, PAGE, 6), "child %d does not see what its parent writes", i);
      CHECK(filled(zero + PAGE, PAGE, 7), "child %d: /dev/zero is not shared", i);
      page40[PAGE + i] = 50 + i;
      _exit(0);
    }
  await("first"), await("second");
  cycle();
  CHECK(filled(family + 5 * PAGE, 3 * PAGE, 1) && filled(family + 60 * PAGE, PAGE, 2), "content");
  CHECK(filled(zero, 2 * PAGE, 4) && filled(other, 4 * PAGE, 3) && filled(readonly, 2 * PAGE, 5), "content of the others");
  CHECK(family[20 * PAGE] == 0, "a hole has content");
  twice[PAGE] = 99;
  CHECK(other[PAGE] == 99, "two mappings of the same memory are apart");
  fill(family + 40 * PAGE, PAGE, 6), fill(zero + PAGE, PAGE, 7), here("written");
  child_passed(children[0]), child_passed(children[1]);
  CHECK(family[41 * PAGE] == 50 && family[41 * PAGE + 1] == 51, "the parent does not see what its children write");
  return pass();
}
