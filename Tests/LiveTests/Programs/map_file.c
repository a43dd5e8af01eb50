// File mappings: private ones with changed and unchanged pages, shared ones that still reach the file and other tasks.
#include "proc.h"
#define PAGE 4096ul

static struct layout before, after;

int main(int argc, char **argv) {
  begin(argv);
  static char content[16 * PAGE];
  fill(content, sizeof content, 1);
  int fd = MUST(open(path_of("file"), O_RDWR | O_CREAT | O_EXCL, 0644));
  MUST(write(fd, content, sizeof content - 100));  // The last page is not whole.
  char *private = MUST(mmap(0, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  char *readonly = MUST(mmap(0, 4 * PAGE, PROT_READ, MAP_PRIVATE, fd, 2 * PAGE));
  char *shared = MUST(mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 8 * PAGE));
  int reading = MUST(open(path_of("file"), O_RDONLY));
  char *looking = MUST(mmap(0, 8 * PAGE, PROT_READ, MAP_SHARED, reading, 8 * PAGE));
  char *once = MUST(mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 4 * PAGE));
  fill(once, 2 * PAGE, 9);
  MUST(mprotect(once, 2 * PAGE, PROT_READ));  // changed pages in what is read-only now
  close(fd), close(reading);
  volatile char touched = private[0] + readonly[0];
  (void)touched;
  fill(private + 3 * PAGE, PAGE, 3), fill(shared + PAGE, PAGE, 4), fill(content + 9 * PAGE, PAGE, 4);
  pid_t child = MUST(fork());
  if (child == 0) {
    child_cycle("child"), await("written");
    CHECK(filled(shared + 2 * PAGE, PAGE, 5), "the child does not see what its parent writes");
    CHECK(!memcmp(private + 9 * PAGE, shared + PAGE, PAGE), "the child's unchanged private page");
    _exit(0);
  }
  await("child");
  read_layout(&before, "/proc/self/smaps"), read_layout(&before, "/proc/self/smaps");
  cycle();
  read_layout(&after, "/proc/self/smaps");
  same_layout(&before, &after);
  CHECK(vma_at(&after, private)->anonymous <= 4, "%ld kB of the private mapping are copies", vma_at(&after, private)->anonymous);
  CHECK(!memcmp(private, content, 3 * PAGE) && !memcmp(private + 4 * PAGE, content + 4 * PAGE, 12 * PAGE - 100), "unchanged pages");
  CHECK(filled(private + 3 * PAGE, PAGE, 3) && filled(once, 2 * PAGE, 9), "changed pages");
  CHECK(!memcmp(readonly, content + 2 * PAGE, 4 * PAGE), "the read-only mapping");
  CHECK(filled(shared + PAGE, PAGE, 4), "the shared mapping");
  fill(shared + 2 * PAGE, PAGE, 5);
  CHECK(filled(looking + 2 * PAGE, PAGE, 5), "two shared mappings of one file show different things");
  static char now[PAGE];
  fd = MUST(open(path_of("file"), O_RDONLY));
  CHECK(pread(fd, now, PAGE, 10 * PAGE) == PAGE && filled(now, PAGE, 5), "what is written does not reach the file");
  CHECK(pread(fd, now, PAGE, 3 * PAGE) == PAGE && !memcmp(now, content + 3 * PAGE, PAGE), "a private change is in the file");
  here("written");
  child_passed(child);
  return pass();
}
