// Tasks that share their working directory and umask (CLONE_FS) still do; a task that does not, does not.
#include "check.h"

static pid_t child_with(int flags) { return MUST(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0)); }

int main(int argc, char **argv) {
  begin(argv);
  pid_t sharing = child_with(CLONE_FS);
  char where[64];
  if (sharing == 0) {
    child_cycle("sharing"), await("moved");
    CHECK(!strcmp(getcwd(where, sizeof where), "/usr"), "it is in %s", where);
    CHECK(umask(0) == 0123, "its umask is another");
    _exit(0);
  }
  pid_t apart = child_with(0);
  if (apart == 0) {
    child_cycle("apart"), await("moved");
    CHECK(strcmp(getcwd(where, sizeof where), "/usr"), "it shares what it did not share");
    _exit(0);
  }
  await("sharing"), await("apart");
  cycle();
  MUST(chdir("/usr")), umask(0123), here("moved");
  child_passed(sharing), child_passed(apart);
  return pass();
}
