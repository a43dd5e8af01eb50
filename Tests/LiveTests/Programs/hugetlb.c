// Huge pages of hugetlbfs: private and shared anonymous, and a memfd. They come from overcommit, allowed for this run only.
#include "proc.h"
#define SIZE (2ul << 20)
#define LIMIT "/proc/sys/vm/nr_overcommit_hugepages"

static void allow(int more) {
  char text[32];
  slurp(LIMIT, text, sizeof text);
  FILE *file = fopen(LIMIT, "w");
  if (!file) skip("huge pages cannot be reserved");
  fprintf(file, "%d", atoi(text) + more), fclose(file);
}

static struct layout before, after;

int main(int argc, char **argv) {
  begin(argv);
  int rw = PROT_READ | PROT_WRITE;
  allow(16);
  char *private = mmap(0, 2 * SIZE, rw, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  char *shared = mmap(0, 2 * SIZE, rw, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
  int fd = syscall(SYS_memfd_create, "huge", MFD_HUGETLB);
  if (private == MAP_FAILED || shared == MAP_FAILED || fd < 0) allow(-16), skip("no huge pages");
  MUST(ftruncate(fd, SIZE));
  char *of_memfd = MUST(mmap(0, SIZE, rw, MAP_SHARED, fd, 0));
  fill(private, SIZE, 1), fill(shared + SIZE, SIZE, 2), fill(of_memfd, SIZE, 3);
  pid_t child = MUST(fork());
  if (child == 0) {
    child_cycle("child"), await("written");
    CHECK(shared[0] == 'x' && filled(shared + SIZE, SIZE, 2), "the child's view");
    _exit(0);
  }
  await("child");
  read_layout(&before, "/proc/self/smaps"), read_layout(&before, "/proc/self/smaps");
  cycle();
  allow(-16);  // A limit only: what is in use stays.
  read_layout(&after, "/proc/self/smaps");
  CHECK(filled(private, SIZE, 1) && filled(shared + SIZE, SIZE, 2) && filled(of_memfd, SIZE, 3), "content");
  same_layout(&before, &after);
  shared[0] = 'x', here("written");
  child_passed(child);
  return pass();
}
