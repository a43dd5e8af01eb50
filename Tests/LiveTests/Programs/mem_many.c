// Thousands of mappings of one task, most of them full, as of threads' stacks with their guards; some of other kinds among them: dirty
// pages of a private file, shared memory, guard regions, content without access. Every byte is as it was. And a file that is deleted, whose
// image is made when all has been looked at.
#include "check.h"
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

#define COUNT 4000
#define PAGE 4096
#define PAGES 4  // of each mapping, the last of which is its guard

enum kind { PLAIN, OF_FILE, SHARED, GUARDED, CLOSED };

static enum kind kind(int i) { return i % 1000 != 999 ? PLAIN : i == 3999 ? OF_FILE : i == 2999 ? SHARED : i == 1999 ? GUARDED : CLOSED; }
static unsigned char *at[COUNT];
static int has_guards;

static unsigned char byte(int i, int page) { return i * 3 + page + 1; }

static void check_content(int i) {
  if (kind(i) == CLOSED) MUST(mprotect(at[i], (PAGES - 1) * PAGE, PROT_READ));
  for (int page = 0; page < PAGES - 1; page++) {
    if (kind(i) == GUARDED && has_guards && page == 1) continue;
    int is_file = kind(i) == OF_FILE && page == 1;
    for (int k = 0; k < PAGE; k += 8) {
      int found = at[i][page * PAGE + k], wanted = is_file ? 'f' : byte(i, page);
      CHECK(found == wanted, "mapping %d, page %d, byte %d: %d, not %d", i, page, k, found, wanted);
    }
  }
}

int main(int argc, char **argv) {
  begin(argv);
  static char text[PAGES * PAGE];
  memset(text, 'f', sizeof text);
  int file = MUST(open(path_of("file"), O_RDWR | O_CREAT | O_TRUNC, 0600));
  CHECK(write(file, text, sizeof text) == sizeof text, "no file");
  for (int i = 0; i < COUNT; i++) {
    int flags = kind(i) == SHARED ? MAP_SHARED | MAP_ANONYMOUS : kind(i) == OF_FILE ? MAP_PRIVATE : MAP_PRIVATE | MAP_ANONYMOUS;
    at[i] = MUST(mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, flags, kind(i) == OF_FILE ? file : -1, 0));
    for (int page = 0; page < PAGES - 1; page++)
      if (kind(i) != OF_FILE || page != 1) memset(at[i] + page * PAGE, byte(i, page), PAGE);
    MUST(mprotect(at[i] + (PAGES - 1) * PAGE, PAGE, PROT_NONE));
    if (kind(i) == GUARDED) has_guards = madvise(at[i] + PAGE, PAGE, MADV_GUARD_INSTALL) == 0;
    if (kind(i) == CLOSED) MUST(mprotect(at[i], (PAGES - 1) * PAGE, PROT_NONE));
  }
  close(file);
  // Each lies below the one before: that without access is among the last.
  CHECK(at[0] > at[COUNT - 1], "mmap goes upwards");
  int deleted = MUST(open(path_of("deleted"), O_RDWR | O_CREAT | O_TRUNC, 0600));
  CHECK(write(deleted, "gone", 4) == 4, "no deleted file");
  MUST(unlink(path_of("deleted")));
  cycle();
  char word[5] = "";
  CHECK(pread(deleted, word, 4, 0) == 4 && !strcmp(word, "gone"), "the deleted file has '%s'", word);
  for (int i = 0; i < COUNT; i++) check_content(i);
  return pass();
}
