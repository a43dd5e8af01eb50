// Seccomp filters: two on one thread, one of them shared with its leader, none on a third; and no more than that.
#include "proc.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

static volatile int go;

static void deny(int number, int error) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &(struct sock_fprog){4, code}));
}
static void expect(const char *who, int filters, int first, int second) {
  char line[100];
  line_of("/proc/thread-self/status", "Seccomp_filters:", line, sizeof line);
  CHECK(atoi(line + 17) == filters, "%s: %s", who, line);
  errno = 0, syscall(SYS_getpriority, 77, 0), CHECK(errno == first, "%s: errno %d for the first", who, errno);
  errno = 0, syscall(SYS_getresuid, 1, 1, 1), CHECK(errno == second, "%s: errno %d for the second", who, errno);
}
static void *two(void *none) {
  deny(SYS_getresuid, 102);
  here("two");
  while (!go) nanosleep(&(struct timespec){0, MS}, 0);
  expect("the thread with two", 2, 101, 102);
  return none;
}
static void *zero(void *none) {
  here("zero");
  while (!go) nanosleep(&(struct timespec){0, MS}, 0);
  expect("the thread with none", 0, EINVAL, EFAULT);
  return none;
}

int main(int argc, char **argv) {
  begin(argv);
  pthread_t threads[2];
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  CHECK(pthread_create(&threads[0], 0, zero, 0) == 0, "no thread");
  await("zero");
  deny(SYS_getpriority, 101);
  CHECK(pthread_create(&threads[1], 0, two, 0) == 0, "no thread");
  await("two");
  cycle();
  go = 1;
  expect("the leader", 1, 101, EFAULT);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
  return pass();
}
