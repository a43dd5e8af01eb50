// Pipes with nothing in them: flags of each end, close-on-exec, size, owner, numbers in every order.
#include "check.h"
#include <sys/ioctl.h>

enum { PIPES = 12 };

int main(int argc, char **argv) {
  begin(argv);
  signal(SIGIO, SIG_IGN);
  int ends[PIPES][2], flags[PIPES][2], closing[PIPES][2], size[PIPES];
  for (int i = 0; i < PIPES; i++) MUST(pipe2(ends[i], i == 1 ? O_NONBLOCK : i == 2 ? O_DIRECT : i == 3 ? O_CLOEXEC : 0));
  MUST(fcntl(ends[4][1], F_SETFL, O_NONBLOCK));
  MUST(fcntl(ends[5][0], F_SETFL, O_NONBLOCK | O_APPEND));
  MUST(fcntl(ends[6][0], F_SETFD, FD_CLOEXEC));
  MUST(fcntl(ends[6][1], F_SETPIPE_SZ, 4096));
  MUST(fcntl(ends[7][1], F_SETFD, FD_CLOEXEC));
  MUST(fcntl(ends[7][0], F_SETPIPE_SZ, 1 << 19));
  MUST(fcntl(ends[8][0], F_SETOWN, getpid())), MUST(fcntl(ends[8][0], F_SETSIG, SIGUSR2));
  // Its ends change places.
  int apart = MUST(fcntl(ends[9][0], F_DUPFD, 500));
  MUST(dup2(ends[9][1], ends[9][0])), MUST(dup2(apart, ends[9][1])), close(apart);
  int number = ends[9][0];
  ends[9][0] = ends[9][1], ends[9][1] = number;
  // A number is free between them, or something else is there.
  apart = MUST(fcntl(ends[10][1], F_DUPFD, ends[11][1] + 2)), close(ends[10][1]), ends[10][1] = apart;
  // One end has two numbers.
  int again = MUST(dup(ends[11][1]));
  int last[2];
  MUST(pipe(last));
  for (int i = 0; i < PIPES; i++) {
    size[i] = MUST(fcntl(ends[i][0], F_GETPIPE_SZ));
    for (int k = 0; k < 2; k++) flags[i][k] = MUST(fcntl(ends[i][k], F_GETFL)), closing[i][k] = MUST(fcntl(ends[i][k], F_GETFD));
  }
  cycle();
  for (int i = 0; i < PIPES; i++) {
    CHECK(fcntl(ends[i][0], F_GETPIPE_SZ) == size[i], "pipe %d has %d bytes, not %d", i, fcntl(ends[i][0], F_GETPIPE_SZ), size[i]);
    for (int k = 0; k < 2; k++) {
      int now = fcntl(ends[i][k], F_GETFL);
      CHECK(now == flags[i][k], "pipe %d: the flags of end %d are 0%o, not 0%o", i, k, now, flags[i][k]);
      CHECK(fcntl(ends[i][k], F_GETFD) == closing[i][k], "pipe %d: close-on-exec of end %d is %d", i, k, fcntl(ends[i][k], F_GETFD));
    }
    int there;
    MUST(ioctl(ends[i][0], FIONREAD, &there));
    CHECK(there == 0, "%d bytes are in pipe %d", there, i);
  }
  CHECK(fcntl(ends[8][0], F_GETOWN) == getpid() && fcntl(ends[8][0], F_GETSIG) == SIGUSR2, "the owner");
  // Each leads to its own other end.
  for (int i = 0; i < PIPES; i++) CHECK(write(ends[i][1], &i, sizeof i) == sizeof i, "writing to pipe %d: %m", i);
  for (int i = 0, got; i < PIPES; i++) {
    CHECK(read(ends[i][0], &got, sizeof got) == sizeof got && got == i, "pipe %d leads to pipe %d", i, got);
    if (i != 11) close(ends[i][1]), CHECK(read(ends[i][0], &got, 1) == 0, "pipe %d has another writer", i);
  }
  close(ends[11][1]);
  CHECK(write(again, "x", 1) == 1 && close(again) == 0, "the end with two numbers");
  char c[2];
  CHECK(read(ends[11][0], c, 2) == 1 && read(ends[11][0], c, 1) == 0, "the pipe whose end had two numbers");
  CHECK(write(last[1], "x", 1) == 1 && read(last[0], c, 2) == 1, "the last pipe");
  return pass();
}
