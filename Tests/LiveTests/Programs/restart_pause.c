// pause and sigsuspend go on until a signal comes; the handler runs once, the mask of sigsuspend is undone.
#include "blocked.h"

static volatile int handled;
static void on_signal(int number) { handled++; }

static long with_pause(void) { return pause() == -1 && errno == EINTR ? 1 : 0; }
static long with_sigsuspend(void) {
  sigset_t block, open_mask, now;
  sigemptyset(&block), sigaddset(&block, SIGUSR1), sigaddset(&block, SIGALRM), pthread_sigmask(SIG_SETMASK, &block, 0);
  sigfillset(&open_mask), sigdelset(&open_mask, SIGUSR1);
  int ended = sigsuspend(&open_mask) == -1 && errno == EINTR;
  pthread_sigmask(SIG_SETMASK, 0, &now);
  return ended && sigismember(&now, SIGUSR1) && sigismember(&now, SIGALRM) && !sigismember(&now, SIGTERM);
}

static struct blocked list[] = {{"pause", with_pause, 1}, {"sigsuspend", with_sigsuspend, 1}};

int main(int argc, char **argv) {
  begin(argv);
  signal(SIGUSR1, on_signal);
  start_blocked(list, 2);
  cycle();
  nanosleep(&(struct timespec){0, 100 * MS}, 0);
  for (int i = 0; i < 2; i++) CHECK(!list[i].done, "%s came back by itself", list[i].name);
  CHECK(!handled, "a handler ran");
  for (int i = 0; i < 2; i++) MUST(syscall(SYS_tgkill, getpid(), list[i].tid, SIGUSR1));
  check_blocked(list, 2);
  CHECK(handled == 2, "the handler ran %d times", handled);
  return pass();
}
