// A root directory that two tasks share (CLONE_FS) is no other one's: who was born from them before they changed it has the old one.
#include "check.h"

// Waits for a file in an open folder, which is found from every root directory.
static void await_in(int folder, const char *name) {
  for (int i = 0; i < 6000; i++, nanosleep(&(struct timespec){0, 10 * MS}, 0)) if (faccessat(folder, name, F_OK, 0) == 0) return;
  fail(__FILE__, __LINE__, "nobody made %s", name);
}

int main(int argc, char **argv) {
  begin(argv);
  char jail[600], above[600], *name = strrchr(base, '/') + 1, check[200];
  snprintf(jail, sizeof jail, "%s", path_of("jail")), snprintf(check, sizeof check, "%s.check", name);
  snprintf(above, sizeof above, "%.*s", (int)(name - base), base);
  MUST(mkdir(jail, 0755));
  int folder = MUST(open(above, O_RDONLY | O_DIRECTORY)), inside = MUST(open(jail, O_RDONLY | O_DIRECTORY));
  close(MUST(openat(inside, "here", O_WRONLY | O_CREAT, 0644)));
  pid_t sharing = MUST(syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0));
  if (sharing == 0) {
    await_in(folder, check);
    CHECK(access("/here", F_OK) == 0 && access("/proc", F_OK) != 0, "it has another root directory");
    _exit(0);
  }
  pid_t apart[8];
  for (int i = 0; i < 8; i++)
    if ((apart[i] = MUST(fork())) == 0) {
      await_in(folder, check);
      CHECK(access("/here", F_OK) != 0 && access("/proc/self", F_OK) == 0, "it has another root directory");
      _exit(0);
    }
  MUST(chroot(jail)), close(MUST(openat(folder, name, O_WRONLY | O_CREAT, 0644))), await_in(folder, check);
  CHECK(access("/here", F_OK) == 0 && access("/proc", F_OK) != 0, "it has another root directory");
  child_passed(sharing);
  for (int i = 0; i < 8; i++) child_passed(apart[i]);
  // Back, to where the result is awaited.
  MUST(fchdir(folder)), MUST(chroot("../../../../../../../../.."));
  return pass();
}
