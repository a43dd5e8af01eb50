// Pipes: content, size, a full one, one without writer, one without reader, ends in other tasks and reopened.
#include "check.h"
#include <sys/ioctl.h>

int main(int argc, char **argv) {
  begin(argv);
  signal(SIGPIPE, SIG_IGN);
  static char content[70000], now[1 << 20];
  fill(content, sizeof content, 1);
  int filled_[2], large[2], full[2], no_writer[2], no_reader[2], apart[2];
  MUST(pipe(filled_)), MUST(pipe2(large, O_NONBLOCK)), MUST(pipe(full));
  MUST(pipe(no_writer)), MUST(pipe(no_reader)), MUST(pipe(apart));
  MUST(write(filled_[1], content, 30000)), MUST(read(filled_[0], now, 1000));
  CHECK(fcntl(large[1], F_SETPIPE_SZ, 1 << 18) == 1 << 18, "the pipe's size cannot be set");
  MUST(write(large[1], content, sizeof content));
  MUST(fcntl(full[1], F_SETFL, O_NONBLOCK));
  int bytes = 0;
  for (int n; (n = write(full[1], content, 4096)) > 0;) bytes += n;
  MUST(write(no_writer[1], "rest", 4)), close(no_writer[1]), close(no_reader[0]);
  char self[64];
  snprintf(self, sizeof self, "/proc/self/fd/%d", filled_[0]);
  int reopened = MUST(open(self, O_RDONLY | O_NONBLOCK));  // a second description of the reading end
  pid_t child = MUST(fork());
  if (child == 0) {
    close(apart[0]);
    child_cycle("child");
    MUST(write(apart[1], "from the child", 14));
    _exit(0);
  }
  close(apart[1]), await("child");
  cycle();
  CHECK(fcntl(large[0], F_GETPIPE_SZ) == 1 << 18, "the large pipe's size is %d", fcntl(large[0], F_GETPIPE_SZ));
  CHECK(fcntl(filled_[0], F_GETPIPE_SZ) == 65536, "the other's is %d", fcntl(filled_[0], F_GETPIPE_SZ));
  CHECK(fcntl(large[0], F_GETFL) & O_NONBLOCK && !(fcntl(filled_[0], F_GETFL) & O_NONBLOCK), "flags");
  int there;
  MUST(ioctl(filled_[0], FIONREAD, &there));
  CHECK(there == 29000, "%d bytes are in it", there);
  CHECK(read(filled_[0], now, 10000) == 10000 && !memcmp(now, content + 1000, 10000), "content");
  CHECK(read(reopened, now, sizeof now) == 19000 && !memcmp(now, content + 11000, 19000), "the reopened end");
  CHECK(read(reopened, now, 1) == -1 && errno == EAGAIN, "the reopened end's flags");
  int got = 0;
  for (int n; (n = read(large[0], now + got, sizeof now - got)) > 0;) got += n;
  CHECK(got == sizeof content && !memcmp(now, content, sizeof content), "the large pipe has %d bytes", got);
  CHECK(write(full[1], "x", 1) == -1 && errno == EAGAIN, "the full pipe takes more");
  MUST(ioctl(full[0], FIONREAD, &there));
  CHECK(there == bytes, "the full pipe has %d bytes, not %d", there, bytes);
  CHECK(read(no_writer[0], now, 10) == 4 && read(no_writer[0], now, 10) == 0, "the pipe without writer");
  CHECK(write(no_reader[1], "x", 1) == -1 && errno == EPIPE, "the pipe without reader");
  child_passed(child);
  CHECK(read(apart[0], now, 100) == 14 && !memcmp(now, "from the child", 14) && read(apart[0], now, 100) == 0, "the pipe to the child");
  return pass();
}
