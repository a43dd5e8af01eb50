// The stack and a MAP_GROWSDOWN mapping keep their content, and still grow down by themselves.
#include "proc.h"
#include <sys/resource.h>

static struct layout before, after;
static char *low;

static __attribute__((noinline)) long deep(int levels) {
  volatile char frame[65536];
  for (unsigned i = 0; i < sizeof frame; i += 512) frame[i] = levels;
  low = (char *)frame;
  long below = levels ? deep(levels - 1) : 0;
  for (unsigned i = 0; i < sizeof frame; i += 512) if (frame[i] != (char)levels) return -1000000;
  return below + 1;
}

int main(int argc, char **argv) {
  begin(argv);
  char local[8192];
  fill(local, sizeof local, 5);
  CHECK(deep(8) == 9, "the stack is broken before the cycle");
  char *room = MUST(mmap(0, 4ul << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  MUST(munmap(room, 4ul << 20));
  char *grows = MUST(mmap(room + (2ul << 20), 16384, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0));
  for (char *at = grows + 12288; at > grows - 32768; at -= 4096) *at = 77;  // It has grown already.
  read_layout(&before, "/proc/self/smaps"), read_layout(&before, "/proc/self/smaps");
  cycle();
  read_layout(&after, "/proc/self/smaps");
  same_layout(&before, &after);
  CHECK(strstr(vma_at(&after, local)->flags, "gd"), "the stack cannot grow");
  CHECK(filled(local, sizeof local, 5), "content of the stack");
  for (char *at = grows + 12288; at > grows - 32768; at -= 4096) CHECK(*at == 77, "content of the growing mapping");
  for (char *at = grows - 32768; at > grows - 131072; at -= 4096) *at = 78;
  CHECK(deep(60) == 61, "the stack is broken");
  return pass();
}
