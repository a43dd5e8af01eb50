// Seccomp strict mode: the child may still read, write and exit, and still nothing else.
#include "check.h"

static void child(int in, int out, int forbidden) {
  MUST(prctl(PR_SET_SECCOMP, 1));
  char c = 'r';
  write(out, &c, 1);
  if (read(in, &c, 1) != 1 || c != 'g') syscall(SYS_exit, 9);
  if (forbidden) syscall(SYS_getpid);
  c = 'd';
  write(out, &c, 1);
  syscall(SYS_exit, 0);
}

int main(int argc, char **argv) {
  begin(argv);
  pid_t pids[2];
  int in[2], out[2], status;
  MUST(pipe(in)), MUST(pipe(out));
  char c;
  for (int i = 0; i < 2; i++) {
    if ((pids[i] = MUST(fork())) == 0) child(in[0], out[1], i);
    CHECK(read(out[0], &c, 1) == 1 && c == 'r', "the child is not ready");
  }
  cycle();
  MUST(write(in[1], "gg", 2));
  CHECK(waitpid(pids[0], &status, 0) == pids[0] && WIFEXITED(status) && WEXITSTATUS(status) == 0, "the obedient child: %#x", status);
  CHECK(waitpid(pids[1], &status, 0) == pids[1] && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the disobedient child: %#x", status);
  return pass();
}
