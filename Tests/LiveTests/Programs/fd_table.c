// A descriptor table is as large as it was: runs of numbers with small and large gaps, close-on-exec here and there, and pipes with
// the very flags that they were made with.
#include "check.h"

static int shown(const char *file, const char *key, int base) {
  char text[4096];
  int fd = MUST(open(file, O_RDONLY | O_CLOEXEC));
  int n = MUST(read(fd, text, sizeof text - 1));
  close(fd);
  text[n] = 0;
  char *line = strstr(text, key);
  CHECK(line, "%s has no %s", file, key);
  return strtol(line + strlen(key), 0, base);
}

static int flags_of(int fd) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  return shown(path, "flags:", 8);
}

int main(int argc, char **argv) {
  begin(argv);
  int present[400] = {0}, flags[400];
  for (int fd = 3; fd < 200; fd++) close(fd);
  for (int i = 0; i < 40; i++) {
    int ends[2];
    MUST(pipe2(ends, i % 3 == 0 ? O_CLOEXEC : i % 3 == 1 ? O_NONBLOCK : 0));
    MUST(dup(ends[i % 2]));
    MUST(open("/dev/null", i % 2 ? O_RDONLY : O_RDWR | O_CLOEXEC));
  }
  for (int fd = 3; fd < 200; fd++) if (fd % 17 == 5 || (fd > 60 && fd < 90)) close(fd);
  MUST(dup2(0, 201));
  for (int fd = 0; fd < 400; fd++) present[fd] = fcntl(fd, F_GETFD) >= 0, flags[fd] = present[fd] ? flags_of(fd) : 0;
  int size = shown("/proc/self/status", "FDSize:", 10);
  cycle();
  for (int fd = 0; fd < 400; fd++) {
    CHECK((fcntl(fd, F_GETFD) >= 0) == present[fd], "descriptor %d", fd);
    CHECK(!present[fd] || flags_of(fd) == flags[fd], "descriptor %d: flags %#o are now %#o", fd, flags[fd], flags_of(fd));
  }
  CHECK(shown("/proc/self/status", "FDSize:", 10) <= size, "FDSize was %d, is %d", size, shown("/proc/self/status", "FDSize:", 10));
  return pass();
}
