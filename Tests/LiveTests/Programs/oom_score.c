// oom_score_adj, different in parent and child.
#include "proc.h"

static void set(const char *value) {
  int fd = MUST(open("/proc/self/oom_score_adj", O_WRONLY));
  if (write(fd, value, strlen(value)) < 0) skip("oom_score_adj cannot be written");
  close(fd);
}
static void expect(const char *value) {
  char text[32];
  slurp("/proc/self/oom_score_adj", text, sizeof text);
  CHECK(!strncmp(text, value, strlen(value)) && text[strlen(value)] == '\n', "it is %s", text);
}

int main(int argc, char **argv) {
  begin(argv);
  set("300");
  pid_t child = MUST(fork());
  if (child == 0) set("777"), child_cycle("child"), expect("777"), _exit(0);
  await("child");
  cycle();
  expect("300");
  child_passed(child);
  return pass();
}
