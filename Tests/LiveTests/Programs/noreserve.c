// A mapping far larger than memory and swap, possible only with MAP_NORESERVE, with a page at either end.
#include "check.h"

int main(int argc, char **argv) {
  begin(argv);
  size_t size = 4ul << 40;
  char *huge = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (huge == MAP_FAILED) skip("this machine does not overcommit");
  fill(huge, 4096, 1), fill(huge + size - 4096, 4096, 2);
  cycle();
  CHECK(filled(huge, 4096, 1) && filled(huge + size - 4096, 4096, 2), "content");
  CHECK(huge[size / 2] == 0, "the middle is not zero");
  return pass();
}
