// A file opened by a name that is deleted, while another hard link remains: still that very file.
// criu: --link-remap
#include "check.h"

int main(int argc, char **argv) {
  begin(argv);
  char other[600];
  strcpy(other, path_of("other"));
  int fd = MUST(open(path_of("name"), O_RDWR | O_CREAT | O_EXCL, 0644));
  MUST(write(fd, "content", 7)), MUST(link(path_of("name"), other)), MUST(unlink(path_of("name")));
  struct stat before, after, named;
  MUST(fstat(fd, &before));
  cycle();
  MUST(fstat(fd, &after)), MUST(stat(other, &named));
  CHECK(after.st_ino == before.st_ino && named.st_ino == before.st_ino, "it is another file now");
  CHECK(after.st_nlink == 1, "%d links", (int)after.st_nlink);
  CHECK(access(path_of("name"), F_OK) == -1, "the deleted name is there again");
  MUST(pwrite(fd, "X", 1, 0));
  char text[8] = "";
  fd = MUST(open(other, O_RDONLY)), MUST(read(fd, text, 7));
  CHECK(!strcmp(text, "Xontent"), "%s", text);
  return pass();
}
