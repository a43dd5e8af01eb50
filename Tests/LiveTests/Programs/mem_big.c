// 96 MiB that do not compress, in 300 mappings of different sizes.
#include "check.h"
#define N 300

int main(int argc, char **argv) {
  begin(argv);
  static char *start[N];
  static size_t size[N];
  for (int i = 0; i < N; i++) {
    size[i] = (i * 37 % 160 + 1) * 4096ul;
    start[i] = MUST(mmap(0, size[i] + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    fill(start[i], size[i], i);
    MUST(mprotect(start[i] + size[i], 4096, PROT_NONE));
  }
  cycle();
  for (int i = 0; i < N; i++) CHECK(filled(start[i], size[i], i), "mapping %d", i);
  return pass();
}
