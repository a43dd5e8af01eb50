// Waits with a timeout that nothing ends early: poll, ppoll, select, epoll_wait, futex, sigtimedwait.
#include "blocked.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>

#define LONG 2500 * MS
static struct timespec span = {LONG / 1000000000, LONG % 1000000000};
static int quiet[2], epoll;
static int word = 5;

static long with_poll(void) { return poll(&(struct pollfd){quiet[0], POLLIN}, 1, LONG / MS); }
static long with_ppoll(void) { return ppoll(&(struct pollfd){quiet[0], POLLIN}, 1, &span, 0); }
static long with_select(void) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(quiet[0], &set);
  return select(quiet[0] + 1, &set, 0, 0, &(struct timeval){LONG / 1000000000, LONG % 1000000000 / 1000});
}
static long with_pselect(void) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(quiet[0], &set);
  return pselect(quiet[0] + 1, &set, 0, 0, &span, 0);
}
static long with_epoll(void) {
  struct epoll_event event;
  return epoll_wait(epoll, &event, 1, LONG / MS);
}
static long with_futex(void) {  // FUTEX_WAIT's timeout is relative; ETIMEDOUT ends it.
  long r = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 5, &span, 0, 0);
  return r < 0 && errno == ETIMEDOUT ? 0 : -1;
}
static long with_sigtimedwait(void) {
  sigset_t set;
  sigemptyset(&set), sigaddset(&set, SIGUSR2);
  long r = sigtimedwait(&set, 0, &span);
  return r < 0 && errno == EAGAIN ? 0 : -1;
}

static struct blocked list[] = {
    {"poll", with_poll, 0, LONG},         {"ppoll", with_ppoll, 0, LONG},   {"select", with_select, 0, LONG},
    {"pselect", with_pselect, 0, LONG},   {"futex", with_futex, 0, LONG},   {"sigtimedwait", with_sigtimedwait, 0, LONG},
    {"epoll_wait", with_epoll, 0, LONG},
};

int main(int argc, char **argv) {
  begin(argv);
  sigset_t set;
  sigemptyset(&set), sigaddset(&set, SIGUSR2), sigprocmask(SIG_BLOCK, &set, 0);
  MUST(pipe(quiet));
  epoll = MUST(epoll_create1(0));
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, quiet[0], &(struct epoll_event){EPOLLIN}));
  start_stopwatch();
  start_blocked(list, 7);
  cycle();
  check_blocked(list, 7);
  return pass();
}
