// Deleted files of all kinds in folders that are deleted too: content and name are what they were, and no folder comes back.
#include "check.h"

static char folder[600], links[4][700];
static int fds[4];

static const char *below(const char *name) {
  static char path[1400];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static void read_link(int fd, char *link) {
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  memset(link, 0, 700);
  MUST(readlink(path, link, 699));
}

int main(int argc, char **argv) {
  begin(argv);
  snprintf(folder, sizeof folder, "%s", path_of("folder"));
  MUST(mkdir(folder, 0755)), MUST(mkdir(below("a"), 0700)), MUST(mkdir(below("a/b"), 0755)), MUST(mkdir(below("a/b/c"), 0711));
  fds[0] = MUST(open(below("a/b/file"), O_RDWR | O_CREAT, 0640));
  MUST(write(fds[0], "deep", 4));
  fds[1] = MUST(open(below("beside"), O_RDWR | O_CREAT, 0600));
  MUST(write(fds[1], "beside", 6));
  MUST(mkfifo(below("a/fifo"), 0600));
  fds[2] = MUST(open(below("a/fifo"), O_RDWR));
  MUST(write(fds[2], "in the pipe", 11));
  fds[3] = MUST(open(below("a/b/c"), O_RDONLY | O_DIRECTORY));
  MUST(unlink(below("a/b/file"))), MUST(unlink(below("beside"))), MUST(unlink(below("a/fifo")));
  MUST(rmdir(below("a/b/c"))), MUST(rmdir(below("a/b"))), MUST(rmdir(below("a"))), MUST(rmdir(folder));
  for (int i = 0; i < 4; i++) read_link(fds[i], links[i]);
  cycle();
  for (int i = 0; i < 4; i++) {
    char now[700];
    read_link(fds[i], now);
    CHECK(strcmp(now, links[i]) == 0, "%s was %s", now, links[i]);
    struct stat st;
    MUST(fstat(fds[i], &st));
    CHECK(st.st_nlink == 0, "%s has %d links", now, (int)st.st_nlink);
  }
  char text[20] = "";
  MUST(pread(fds[0], text, 19, 0));
  CHECK(strcmp(text, "deep") == 0, "%s", text);
  MUST(pread(fds[1], text, 19, 0));
  CHECK(strcmp(text, "beside") == 0, "%s", text);
  MUST(read(fds[2], text, 19));
  CHECK(strcmp(text, "in the pipe") == 0, "%s", text);
  CHECK(access(folder, F_OK) < 0 && errno == ENOENT, "the folder is there again");
  return pass();
}
