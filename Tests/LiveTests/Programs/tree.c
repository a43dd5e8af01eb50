// Parents and children, sessions, process groups and names, over four generations.
#include "check.h"

// Makes a child that runs `prepare`, arrives, notes who it is, and compares that after the cycle.
static pid_t child(const char *name, void (*prepare)(void)) {
  pid_t pid = MUST(fork());
  if (pid) return await(name), pid;
  prctl(PR_SET_NAME, name);
  if (prepare) prepare();
  here(name), await("note");
  pid_t self = getpid(), parent = getppid(), session = getsid(0), group = getpgrp();
  char noted[32], now[16];
  snprintf(noted, sizeof noted, "noted %s", name);
  child_cycle(noted);
  prctl(PR_GET_NAME, now);
  CHECK(!strcmp(name, now), "%s is named %s", name, now);
  CHECK(getpid() == self, "%s: PID %d is now %d", name, self, getpid());
  CHECK(getsid(0) == session, "%s: session %d is now %d", name, session, getsid(0));
  CHECK(getpgrp() == group, "%s: process group %d is now %d", name, group, getpgrp());
  CHECK(getppid() == parent, "%s: parent %d is now %d", name, parent, getppid());
  int status;
  for (pid_t one; (one = waitpid(-1, &status, 0)) > 0;) CHECK(status == 0, "%s: child %d ends with %#x", name, one, status);
  _exit(0);
}

static void own_group(void) { MUST(setpgid(0, 0)); }
static void branch(void) {
  child("before", 0);  // Born before its parent's setsid: it stays in the old session.
  MUST(setsid());
  pid_t leaf = child("leaf", own_group), other = child("in its group", 0);
  MUST(setpgid(other, leaf));
  child("after", 0);
}

int main(int argc, char **argv) {
  begin(argv);
  const char *names[] = {"branch", "before", "leaf", "in its group", "after", "second", "third", "a (b) c"};
  pid_t pids[4] = {child("branch", branch), child("second", own_group), child("third", 0), child("a (b) c", 0)};
  MUST(setpgid(pids[2], pids[1]));
  prctl(PR_SET_NAME, "the root");
  here("note");
  char noted[32], now[16];
  for (int i = 0; i < 8; i++) snprintf(noted, sizeof noted, "noted %s", names[i]), await(noted);
  pid_t session = getsid(0), group = getpgrp();
  cycle();
  prctl(PR_GET_NAME, now);
  CHECK(!strcmp(now, "the root"), "the root is named %s", now);
  CHECK(getpid() == root_pid && getsid(0) == session && getpgrp() == group, "the root's IDs");
  CHECK(getsid(pids[0]) == pids[0] && getpgid(pids[2]) == pids[1], "the IDs of children");
  for (int i = 0; i < 4; i++) child_passed(pids[i]);
  return pass();
}
