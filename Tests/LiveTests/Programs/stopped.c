// A stopped child (with two threads) is still stopped, and goes on where it was after SIGCONT.
#include "check.h"

static volatile long *counts;
static void *count(void *argument) {
  for (;;) counts[(long)argument]++, nanosleep(&(struct timespec){0, MS}, 0);
  return 0;
}

static char state_of(pid_t pid) {
  char path[64], text[256] = "";
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  int fd = MUST(open(path, O_RDONLY));
  MUST(read(fd, text, 255)), close(fd);
  return strrchr(text, ')')[2];
}

int main(int argc, char **argv) {
  begin(argv);
  counts = MUST(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  pid_t child = MUST(fork());
  if (child == 0) {
    pthread_t thread;
    pthread_create(&thread, 0, count, (void *)1);
    here("child");
    while (counts[2] == 0) counts[0]++, nanosleep(&(struct timespec){0, MS}, 0);
    _exit(counts[2]);
  }
  await("child");
  kill(child, SIGSTOP);
  int status;
  CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status), "status %#x", status);
  long before[2] = {counts[0], counts[1]};
  cycle();
  nanosleep(&(struct timespec){0, 50 * MS}, 0);
  CHECK(state_of(child) == 'T', "its state is %c", state_of(child));
  CHECK(counts[0] == before[0] && counts[1] == before[1], "it ran");
  kill(child, SIGCONT);
  CHECK(waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status), "status %#x", status);
  for (int i = 0; i < 500 && (counts[0] == before[0] || counts[1] == before[1]); i++) nanosleep(&(struct timespec){0, 10 * MS}, 0);
  CHECK(counts[0] > before[0] && counts[1] > before[1], "it does not go on");
  counts[2] = 33;
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 33, "status %#x", status);
  return pass();
}
