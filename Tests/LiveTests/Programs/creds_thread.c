// Credentials belong to threads: one thread has other IDs and capabilities than its leader.
#include "proc.h"
#include <linux/capability.h>

static const char *keys[] = {"Uid:", "Gid:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:"};
static volatile int go;

static void look(char out[8][200]) {
  for (int i = 0; i < 8; i++) line_of("/proc/thread-self/status", keys[i], out[i], 200);
}
static void *other(void *none) {
  static char before[8][200], after[8][200];
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {{1 << CAP_CHOWN, 1 << CAP_CHOWN | 1 << CAP_FOWNER, 0}};
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  if (none) MUST(syscall(SYS_setresuid, 0, 1234, 0));
  MUST(syscall(SYS_capset, &header, data));
  look(before);
  here("other");
  while (!go) nanosleep(&(struct timespec){0, MS}, 0);
  look(after);
  for (int i = 0; i < 8; i++) CHECK(!strcmp(before[i], after[i]), "the thread: \"%s\" is now \"%s\"", before[i], after[i]);
  return 0;
}

int main(int argc, char **argv) {
  begin(argv);
  static char before[8][200], after[8][200];
  pthread_t thread;
  CHECK(pthread_create(&thread, 0, other, 0) == 0, "no thread");
  await("other");
  look(before);
  cycle();
  look(after);
  for (int i = 0; i < 8; i++) CHECK(!strcmp(before[i], after[i]), "the leader: \"%s\" is now \"%s\"", before[i], after[i]);
  go = 1;
  pthread_join(thread, 0);
  return pass();
}
