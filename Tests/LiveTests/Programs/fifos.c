// Named pipes: content, both ends in one or two tasks, opened for both, one whose name is deleted.
#include "check.h"

int main(int argc, char **argv) {
  begin(argv);
  char now[100];
  MUST(mkfifo(path_of("fifo"), 0644)), MUST(mkfifo(path_of("both"), 0600)), MUST(mkfifo(path_of("deleted"), 0600));
  int reading = MUST(open(path_of("fifo"), O_RDONLY | O_NONBLOCK)), writing = MUST(open(path_of("fifo"), O_WRONLY));
  int both = MUST(open(path_of("both"), O_RDWR)), deleted = MUST(open(path_of("deleted"), O_RDWR | O_NONBLOCK));
  MUST(write(writing, "in the fifo", 11)), MUST(write(both, "in both", 7)), MUST(write(deleted, "in the deleted", 14));
  MUST(unlink(path_of("deleted")));
  pid_t child = MUST(fork());
  if (child == 0) {
    close(reading), close(both), close(deleted);
    child_cycle("child");
    MUST(write(writing, " and more", 9));
    _exit(0);
  }
  await("child");
  cycle();
  child_passed(child);
  CHECK(fcntl(reading, F_GETFL) & O_NONBLOCK && (fcntl(both, F_GETFL) & O_ACCMODE) == O_RDWR, "flags");
  CHECK(read(reading, now, 100) == 20 && !memcmp(now, "in the fifo and more", 20), "content");
  CHECK(read(reading, now, 100) == -1 && errno == EAGAIN, "the writer is lost");
  close(writing);
  CHECK(read(reading, now, 100) == 0, "there is another writer");
  CHECK(read(both, now, 100) == 7 && !memcmp(now, "in both", 7), "content of the one for both");
  CHECK(read(deleted, now, 100) == 14 && !memcmp(now, "in the deleted", 14), "content of the deleted one");
  int late = MUST(open(path_of("both"), O_WRONLY | O_NONBLOCK));
  MUST(write(late, "late", 4));
  CHECK(read(both, now, 100) == 4, "the name leads elsewhere");
  return pass();
}
