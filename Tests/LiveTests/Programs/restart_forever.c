// Waits without a timeout still wait after restore, and then get what they waited for.
#include "blocked.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>

static int reading[2], full[2], polled[2], watched[2], epoll, locked;
static int word = 5;
static pid_t child;

static long with_read(void) {
  char c = 0;
  return read(reading[0], &c, 1) == 1 ? c : -1;
}
static long with_write(void) { return write(full[1], "w", 1); }
static long with_futex(void) { return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 5, 0, 0, 0); }
static long with_poll(void) { return poll(&(struct pollfd){polled[0], POLLIN}, 1, -1); }
static long with_epoll(void) {
  struct epoll_event event;
  return epoll_wait(epoll, &event, 1, -1);
}
static long with_wait(void) {
  int status;
  return wait4(child, &status, 0, 0) == child ? WEXITSTATUS(status) : -1;
}
static long with_sigwaitinfo(void) {
  sigset_t set;
  sigemptyset(&set), sigaddset(&set, SIGUSR2);
  return sigwaitinfo(&set, 0);
}
static long with_flock(void) {
  int fd = MUST(open(path_of("lock"), O_RDWR));
  return flock(fd, LOCK_EX);
}

static struct blocked list[] = {
    {"read", with_read, 'r'},       {"write", with_write, 1},   {"futex", with_futex, 0},
    {"poll", with_poll, 1},         {"wait4", with_wait, 9},    {"sigwaitinfo", with_sigwaitinfo, SIGUSR2},
    {"epoll_wait", with_epoll, 1},  {"flock", with_flock, 0},
};

int main(int argc, char **argv) {
  begin(argv);
  // Locks are a later feature of the tool; "--with-locks" adds the waiting flock.
  int count = argc > 2 ? 8 : 7;
  sigset_t set;
  sigemptyset(&set), sigaddset(&set, SIGUSR2), sigprocmask(SIG_BLOCK, &set, 0);
  MUST(pipe(reading)), MUST(pipe(polled)), MUST(pipe(watched)), MUST(pipe2(full, O_NONBLOCK));
  while (write(full[1], "0123456789abcdef", 16) == 16);
  MUST(fcntl(full[1], F_SETFL, 0));
  epoll = MUST(epoll_create1(0));
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, watched[0], &(struct epoll_event){EPOLLIN}));
  if (count == 8) locked = MUST(open(path_of("lock"), O_RDWR | O_CREAT, 0600)), MUST(flock(locked, LOCK_EX));
  if ((child = MUST(fork())) == 0) child_cycle("child"), await("bye"), _exit(9);
  await("child");
  start_blocked(list, count);
  cycle();
  nanosleep(&(struct timespec){0, 100 * MS}, 0);
  for (int i = 0; i < count; i++)
    CHECK(!list[i].done, "%s came back by itself: %ld, %s", list[i].name, list[i].got, strerror(list[i].error));
  char buffer[4096];
  MUST(write(reading[1], "r", 1)), MUST(read(full[0], buffer, sizeof buffer)), MUST(write(polled[1], "p", 1));
  MUST(write(watched[1], "e", 1)), MUST(syscall(SYS_tgkill, getpid(), list[5].tid, SIGUSR2));
  word = 6, CHECK(syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1) == 1, "nobody waits on the futex");
  here("bye");
  if (count == 8) MUST(flock(locked, LOCK_UN));
  check_blocked(list, count);
  return pass();
}
