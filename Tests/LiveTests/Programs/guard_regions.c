// Guard regions (MADV_GUARD_INSTALL): still there, in the same place, and can be removed.
#include "check.h"
#include <sys/uio.h>
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#define PAGE 4096ul

static int readable(const char *page) {
  char c;
  return process_vm_readv(getpid(), &(struct iovec){&c, 1}, 1, &(struct iovec){(void *)page, 1}, 1, 0) == 1;
}

int main(int argc, char **argv) {
  begin(argv);
  char *area = MUST(mmap(0, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  fill(area, 32 * PAGE, 1);
  static char copy[32 * PAGE];
  memcpy(copy, area, sizeof copy);
  if (madvise(area + 4 * PAGE, 3 * PAGE, MADV_GUARD_INSTALL)) skip("this kernel has no guard regions");
  MUST(madvise(area + 31 * PAGE, PAGE, MADV_GUARD_INSTALL));
  cycle();
  for (int i = 0; i < 32; i++) {
    int guard = (i >= 4 && i < 7) || i == 31;
    CHECK(readable(area + i * PAGE) == !guard, "page %d is %s", i, guard ? "no guard any more" : "unreadable");
    CHECK(guard || !memcmp(area + i * PAGE, copy + i * PAGE, PAGE), "content of page %d", i);
  }
  MUST(madvise(area + 4 * PAGE, 3 * PAGE, MADV_GUARD_REMOVE));
  CHECK(area[4 * PAGE] == 0, "what was guarded is not zero");
  return pass();
}
