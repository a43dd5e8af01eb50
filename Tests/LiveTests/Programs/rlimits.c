// All sixteen limits, soft and hard; one is below what is already in use. A second task belongs to another user.
#include "check.h"
#include <sys/resource.h>

static void lower(int which, rlim_t soft, rlim_t hard) {
  struct rlimit now;
  MUST(getrlimit(which, &now));
  struct rlimit wanted = {soft < now.rlim_max ? soft : now.rlim_max, hard < now.rlim_max ? hard : now.rlim_max};
  MUST(setrlimit(which, &wanted));
}
static void look(struct rlimit *limits) {
  for (int i = 0; i < RLIM_NLIMITS; i++) MUST(getrlimit(i, &limits[i]));
}
static void compare(struct rlimit *before, const char *who) {
  static struct rlimit after[RLIM_NLIMITS];
  look(after);
  for (int i = 0; i < RLIM_NLIMITS; i++)
    CHECK(before[i].rlim_cur == after[i].rlim_cur && before[i].rlim_max == after[i].rlim_max, "%s: limit %d was %#lx/%#lx and is %#lx/%#lx",
          who, i, before[i].rlim_cur, before[i].rlim_max, after[i].rlim_cur, after[i].rlim_max);
}

int main(int argc, char **argv) {
  begin(argv);
  static struct rlimit before[RLIM_NLIMITS];
  pid_t child = MUST(fork());
  if (child == 0) {
    lower(RLIMIT_NPROC, 500, 600), lower(RLIMIT_MEMLOCK, 4096, 65536);
    MUST(setresgid(4000, 4000, 4000)), MUST(setresuid(4000, 4000, 4000));
    look(before);
    child_cycle("child");
    compare(before, "the child");
    _exit(0);
  }
  await("child");
  MUST(dup2(0, 300));
  lower(RLIMIT_NOFILE, 200, 4000);  // Descriptor 300 stays open.
  lower(RLIMIT_FSIZE, 8192, 1 << 20), lower(RLIMIT_CORE, 0, 12345), lower(RLIMIT_CPU, 1000, 2000), lower(RLIMIT_DATA, 1 << 29, 1 << 30);
  lower(RLIMIT_STACK, 1 << 20, 1 << 24), lower(RLIMIT_AS, 1ul << 40, 1ul << 41), lower(RLIMIT_SIGPENDING, 100, 200);
  lower(RLIMIT_MSGQUEUE, 1000, 2000), lower(RLIMIT_LOCKS, 10, 20), lower(RLIMIT_RTTIME, 1000000, 2000000), lower(RLIMIT_NPROC, 1000, 1000);
  look(before);
  cycle();
  compare(before, "the root");
  CHECK(fcntl(300, F_GETFD) == 0, "the descriptor above the limit is gone");
  child_passed(child);
  return pass();
}
