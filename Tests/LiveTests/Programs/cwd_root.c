// Umask, working directory and root, the last two inside a chroot as well.
#include "check.h"
#include <libgen.h>

int main(int argc, char **argv) {
  begin(argv);
  char where[600], folder[600];
  struct stat before, after;
  snprintf(folder, sizeof folder, "%s.folder", base);
  MUST(mkdir(folder, 0755));
  pid_t child = MUST(fork());
  if (child == 0) {  // Its root is the folder that holds the base path.
    char text[512], file[512];
    strcpy(text, base), strcpy(file, base);
    MUST(chroot(dirname(text))), MUST(chdir("/"));
    snprintf(base, sizeof base, "/%s", basename(file));
    MUST(chdir(path_of("folder")));
    MUST(stat("/", &before));
    umask(0), child_cycle("child");
    MUST(stat("/", &after));
    CHECK(before.st_ino == after.st_ino && before.st_dev == after.st_dev, "the root is another");
    CHECK(!strcmp(getcwd(where, sizeof where), path_of("folder")), "the child is in %s", where);
    CHECK(umask(0) == 0, "the child's umask");
    MUST(mkdir("made", 0755));
    _exit(0);
  }
  await("child");
  MUST(stat("/", &before));
  MUST(chdir(folder)), umask(0137);
  cycle();
  CHECK(!strcmp(getcwd(where, sizeof where), folder), "it is in %s", where);
  CHECK(umask(0) == 0137, "umask");
  MUST(stat("/", &after));
  CHECK(before.st_ino == after.st_ino, "the root is another");
  child_passed(child);
  CHECK(access("made", F_OK) == 0, "the child was elsewhere");
  return pass();
}
