// The heap and its end: content, growing, shrinking, and malloc's own idea of it.
#include "proc.h"

static struct layout before, after;

int main(int argc, char **argv) {
  begin(argv);
  char *parts[50];
  for (int i = 0; i < 50; i++) parts[i] = malloc(1000 + i * 100), fill(parts[i], 1000, i);
  char *raw = MUST(sbrk(300001));
  fill(raw, 299000, 99);
  void *end = sbrk(0);
  read_layout(&before, "/proc/self/smaps"), read_layout(&before, "/proc/self/smaps");
  cycle();
  read_layout(&after, "/proc/self/smaps");
  same_layout(&before, &after);
  CHECK(!strcmp(vma_at(&after, parts[0])->name, "[heap]"), "the heap is called \"%s\"", vma_at(&after, parts[0])->name);
  CHECK(sbrk(0) == end, "the heap ends at %p, not %p", sbrk(0), end);
  for (int i = 0; i < 50; i++) CHECK(filled(parts[i], 1000, i), "part %d", i);
  CHECK(filled(raw, 299000, 99), "content");
  char *more = MUST(sbrk(1 << 20));
  CHECK(more == end, "the heap grows at %p", more);
  memset(more, 1, 1 << 20);
  MUST(sbrk(-(1 << 20)));
  for (int i = 0; i < 50; i++) parts[i] = realloc(parts[i], 20000), CHECK(filled(parts[i], 1000, i), "part %d moved", i), free(parts[i]);
  return pass();
}
