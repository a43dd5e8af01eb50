// The tree that scripts/kill-sweep dumps and restores: busy threads that check themselves, one process asleep in each of six
// calls, and a shell. Whoever is not left alone says so in FOLDER/bad, and everybody beats in FOLDER/beats.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static atomic_ulong *beats;
static int question[2], answer[2];

static void __attribute__((noreturn)) bad(const char *what) {
  int fd = open("bad", O_WRONLY | O_CREAT | O_APPEND, 0600);
  dprintf(fd, "%d: %s: errno %d\n", getpid(), what, errno);
  _exit(9);
}

static uint64_t sum(void) {
  uint64_t hash = 14695981039346656037u;
  for (int k = 0; k < 5000; k++) hash = (hash ^ k) * 1099511628211u;
  return hash;
}

static void *computing(void *n) {
  uint64_t right = sum();
  double x = 1;
  for (int i = 0;; i++) {
    if (sum() != right) bad("sum");
    x = x * 1.5 + i;
    if (i % 8 == 7) {
      if (x != ((((((((1 * 1.5 + i - 7) * 1.5 + i - 6) * 1.5 + i - 5) * 1.5 + i - 4) * 1.5 + i - 3) * 1.5 + i - 2) * 1.5 + i - 1) * 1.5 + i)) bad("fpu");
      x = 1;
    }
    beats[(long)n]++;
  }
}

static void *napping(void *n) {
  for (;; beats[(long)n]++)
    if (nanosleep(&(struct timespec){0, 3000000}, 0)) bad("nap");
}

static void *polling(void *n) {
  struct pollfd nothing = {-1, POLLIN};
  for (;; beats[(long)n]++)
    if (poll(&nothing, 1, 2)) bad("short poll");
}

static void *asking(void *n) {
  char c = 1;
  for (;; beats[(long)n]++)
    if (write(question[1], &c, 1) != 1 || read(answer[0], &c, 1) != 1) bad("asking");
}

static void *answering(void *n) {
  char c;
  for (;; usleep(200))
    if (read(question[0], &c, 1) != 1 || write(answer[1], &c, 1) != 1) bad("answering");
}

static void busy(void) {
  void *(*bodies[])(void *) = {computing, computing, napping, polling, asking, answering};
  pthread_t thread;
  for (long i = 0; i < 6; i++) pthread_create(&thread, 0, bodies[i], (void *)i);
  for (;;) pause();
}

// Until the folder has a file named end, nobody of these wakes up.
static void asleep(int in) {
  int ends[2], epoll = epoll_create1(0), word = 0;
  if (pipe(ends)) bad("pipe");
  struct pollfd nothing = {ends[0], POLLIN};
  struct epoll_event event = {EPOLLIN, {0}};
  char c;
  epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event);
  pid_t child = in == 5 ? fork() : 1;
  if (!child) for (;;) pause();
  switch (in) {
  case 0: nanosleep(&(struct timespec){100000, 0}, 0), bad("nanosleep");
  case 1: poll(&nothing, 1, 100000000), bad("poll");
  case 2: syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0), bad("futex");
  case 3:
    // Any stop makes it say EINTR (man 7 signal); that is put right, but not if the tool is killed just before: counted.
    while (epoll_wait(epoll, &event, 1, -1) < 0 && errno == EINTR) beats[8]++;
    bad("epoll_wait");
  case 4: read(ends[0], &c, 1), bad("read");
  case 5: wait4(child, 0, 0, 0), bad("wait4");
  }
}

int main(int argc, char **argv) {
  int fd = open("beats", O_RDWR | O_CREAT, 0600);
  if (fd < 0 || ftruncate(fd, 4096)) bad("beats");
  beats = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (pipe(question) || pipe(answer)) bad("pipe");
  if (!fork()) busy();
  for (int i = 0; i < 6; i++)
    if (!fork()) asleep(i);
  if (!fork()) {
    execl("/bin/sh", "sh", "-c", "(while :; do read x <&3; done) 3</dev/zero & while :; do i=$((i+1)); echo $i >shell; (exit 7); [ $? = 7 ] || echo status >>bad; done", NULL);
    bad("exec");
  }
  int status;
  for (;;)
    if (wait(&status) > 0) bad("a child ended");
}
