// A child that left a core file before it was waited for still says so, in every way to ask.
#include "check.h"
#include <sys/resource.h>

int main(int argc, char **argv) {
  begin(argv);
  char pattern[200] = "";
  int fd = open("/proc/sys/kernel/core_pattern", O_RDONLY);
  if (fd < 0 || read(fd, pattern, 199) <= 0 || strchr("|@", *pattern) || strchr(pattern, '/')) skip("core files go elsewhere");
  close(fd);
  // Where its own core files land, and nobody else's.
  char folder[600];
  snprintf(folder, sizeof folder, "%s.cores", base);
  MUST(mkdir(folder, 0700));
  struct rlimit limit;
  MUST(getrlimit(RLIMIT_CORE, &limit));
  if (limit.rlim_max < 64 << 20) skip("core files are limited");
  pid_t children[2];
  int signals[2] = {SIGABRT, SIGSEGV};
  for (int i = 0; i < 2; i++) {
    children[i] = MUST(fork());
    if (!children[i]) {
      MUST(chdir(folder));
      limit.rlim_cur = limit.rlim_max;
      MUST(setrlimit(RLIMIT_CORE, &limit));
      prctl(PR_SET_NAME, "cored");
      kill(getpid(), signals[i]);
      _exit(1);
    }
    siginfo_t info;
    MUST(waitid(P_PID, children[i], &info, WEXITED | WNOWAIT));
    CHECK(info.si_code == CLD_DUMPED, "no core file was made: code %d", info.si_code);
    char name[700];
    for (int n = 0; n < 2; n++) snprintf(name, sizeof name, n ? "%s/core.%d" : "%s/core", folder, children[i]), unlink(name);
  }
  cycle();
  for (int i = 0; i < 2; i++) {
    siginfo_t info;
    MUST(waitid(P_PID, children[i], &info, WEXITED | WNOWAIT | WNOHANG));
    CHECK(info.si_pid == children[i] && info.si_code == CLD_DUMPED && info.si_status == signals[i], "pid %d code %d status %d", info.si_pid, info.si_code, info.si_status);
    int status;
    CHECK(waitpid(children[i], &status, 0) == children[i] && WIFSIGNALED(status) && WTERMSIG(status) == signals[i] && WCOREDUMP(status), "status %#x", status);
  }
  // Nothing of them is left here.
  CHECK(access("core", F_OK) && errno == ENOENT, "a core file in the working directory");
  MUST(rmdir(folder));
  return pass();
}
