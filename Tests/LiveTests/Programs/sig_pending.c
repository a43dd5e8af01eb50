// Pending signals of the process and of each thread, with their whole siginfo, real-time ones in their order.
#include "check.h"

static pid_t child;
static volatile int go;
static sigset_t all;

static void expect(int number, int code, int value, const char *who) {
  siginfo_t info = {0};
  // glibc would turn SI_TKILL into SI_USER.
  int got = syscall(SYS_rt_sigtimedwait, &all, &info, &(struct timespec){0, 0}, 8);
  CHECK(got == number, "%s: signal %d comes instead of %d", who, got, number);
  CHECK(info.si_code == code && info.si_pid == getpid() && info.si_uid == getuid(), "%s: signal %d has code %d, PID %d", who, number, info.si_code, info.si_pid);
  CHECK(code != SI_QUEUE || info.si_value.sival_int == value, "%s: signal %d has value %d, not %d", who, number, info.si_value.sival_int, value);
}
static void to_thread(int number, int value) {
  siginfo_t info = {.si_signo = number, .si_code = SI_QUEUE};
  info.si_pid = getpid(), info.si_uid = getuid(), info.si_value.sival_int = value;
  MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), number, &info));
}
static void *other(void *none) {
  to_thread(SIGUSR2, 21);
  for (int i = 0; i < 3; i++) to_thread(SIGRTMIN + 2, 30 + i);
  here("other");
  while (!go) nanosleep(&(struct timespec){0, MS}, 0);
  expect(SIGUSR2, SI_QUEUE, 21, "the thread");
  for (int i = 0; i < 3; i++) expect(SIGRTMIN + 2, SI_QUEUE, 30 + i, "the thread");
  return none;
}

int main(int argc, char **argv) {
  begin(argv);
  sigfillset(&all), sigprocmask(SIG_BLOCK, &all, 0);
  pthread_t thread;
  CHECK(pthread_create(&thread, 0, other, 0) == 0, "no thread");
  await("other");
  kill(getpid(), SIGUSR1);
  for (int i = 0; i < 5; i++) sigqueue(getpid(), SIGRTMIN + i % 2, (union sigval){i});
  syscall(SYS_tgkill, getpid(), getpid(), SIGHUP), to_thread(SIGRTMAX, -7);
  if ((child = MUST(fork())) == 0) _exit(3);  // SIGCHLD pending, from the kernel
  nanosleep(&(struct timespec){0, 100 * MS}, 0);
  cycle();
  go = 1;
  pthread_join(thread, 0);  // What is the process's must not go to the thread; it did not ask for more than its own.
  expect(SIGHUP, SI_TKILL, 0, "the leader"), expect(SIGRTMAX, SI_QUEUE, -7, "the leader");
  expect(SIGUSR1, SI_USER, 0, "the process");
  siginfo_t info;
  int got = sigtimedwait(&all, &info, &(struct timespec){0, 0});
  CHECK(got == SIGCHLD && info.si_code == CLD_EXITED && info.si_pid == child && info.si_status == 3, "signal %d, code %d", got, info.si_code);
  for (int parity = 0; parity < 2; parity++)
    for (int i = parity; i < 5; i += 2) expect(SIGRTMIN + parity, SI_QUEUE, i, "the process");
  got = sigtimedwait(&all, &info, &(struct timespec){0, 0});
  CHECK(got == -1, "signal %d is one too many", got);
  return pass();
}
