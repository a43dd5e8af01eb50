// 100 children, each with memory of its own, in mappings that its brothers beside it do not have, and a pipe to its parent.
#include "check.h"
#ifndef N
#define N 100
#endif

int main(int argc, char **argv) {
  begin(argv);
  int ask[2], answer[2];
  pid_t pids[N];
  MUST(pipe(ask)), MUST(pipe(answer));
  for (int i = 0; i < N; i++)
    if ((pids[i] = MUST(fork())) == 0) {
      char *own = malloc(8192);
      fill(own, 8192, i);
      size_t size = 4096 * (1 + i % 3);
      char *apart = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (apart == MAP_FAILED) _exit(1);
      fill(apart, size, i + 1);
      int one = 1, number;
      write(answer[1], &one, sizeof one);
      if (read(ask[0], &number, sizeof number) != sizeof number) _exit(1);
      number = filled(own, 8192, i) && filled(apart, size, i + 1) ? getpid() : -1;
      write(answer[1], &number, sizeof number);
      _exit(number == -1);
    }
  for (int i = 0, number; i < N; i++) CHECK(read(answer[0], &number, sizeof number) == sizeof number, "a child is missing");
  cycle();
  long sum = 0;
  for (int i = 0, number = 0; i < N; i++) write(ask[1], &number, sizeof number), sum += pids[i];
  for (int i = 0, number; i < N; i++) CHECK(read(answer[0], &number, sizeof number) == sizeof number, "a child is missing"), sum -= number;
  CHECK(sum == 0, "PIDs differ by %ld in sum", sum);
  for (int i = 0; i < N; i++) child_passed(pids[i]);
  return pass();
}
