// Children with so many mappings, each with others, that what is known of all of them is never held at once: of the tree that has them
// each rests until it is its turn. One has a second thread, one much memory.
#include <pthread.h>
#include "check.h"
#ifndef CHILDREN
#define CHILDREN 6
#define PAGES 6000
#endif
#define LARGE (72 << 20)

static int ask[2], answer[2];
static volatile int works = 1, worked;

static void *work(void *none) {
  while (works) worked++, usleep(1000);
  return none;
}

// Which pages can be written to, and what is in them.
static void cut(char *memory, int child) {
  for (int i = 0; i < PAGES; i++) {
    char *page = memory + (3L * i + (i * 7 + child) % 5 % 2) * 4096;
    if (mprotect(page, 4096, PROT_READ | PROT_WRITE)) _exit(2);
    *(int *)page = child * PAGES + i;
  }
}

static int is_cut(char *memory, int child) {
  for (int i = 0; i < PAGES; i++)
    if (*(int *)(memory + (3L * i + (i * 7 + child) % 5 % 2) * 4096) != child * PAGES + i) return 0;
  return 1;
}

static void live(int child) {
  int zero = 0;
  pthread_t thread;
  char *large = NULL;
  char *memory = mmap(NULL, 3L * PAGES * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) _exit(2);
  cut(memory, child);
  if (child == 1 && pthread_create(&thread, NULL, work, NULL)) _exit(2);
  if (child == 2) fill(large = malloc(LARGE), LARGE, child);
  if (write(answer[1], &zero, sizeof zero) != sizeof zero || read(ask[0], &zero, sizeof zero) != sizeof zero) _exit(2);
  if (child == 1) {
    int before = worked;
    for (int i = 0; i < 1000 && worked == before; i++) usleep(10000);
    if (worked == before) _exit(3);
    works = 0, pthread_join(thread, NULL);
  }
  _exit(!is_cut(memory, child) || (large && !filled(large, LARGE, child)));
}

int main(int argc, char **argv) {
  begin(argv);
  int zero = 0, state;
  MUST(pipe(ask)), MUST(pipe(answer));
  for (int i = 0; i < CHILDREN; i++)
    if (MUST(fork()) == 0) live(i);
  for (int i = 0; i < CHILDREN; i++) CHECK(read(answer[0], &zero, sizeof zero) == sizeof zero, "a child has not begun");
  cycle();
  for (int i = 0; i < CHILDREN; i++) CHECK(write(ask[1], &zero, sizeof zero) == sizeof zero, "the pipe is gone");
  for (int i = 0; i < CHILDREN; i++) {
    CHECK(wait(&state) > 0 && WIFEXITED(state), "a child was killed");
    CHECK(WEXITSTATUS(state) == 0, "a child ends with %d", WEXITSTATUS(state));
  }
  return pass();
}
