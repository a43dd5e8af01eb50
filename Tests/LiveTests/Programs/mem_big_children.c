// Two small parents that share pages with their children, which have much of their own: the children's memory is filled from outside,
// beside what is their parents'.
#include "check.h"
#define OWN (8 << 20)
#define SHARED (64 << 10)

int main(int argc, char **argv) {
  begin(argv);
  int ask[2], answer[2], zero = 0, state;
  MUST(pipe(ask)), MUST(pipe(answer));
  char *shared = malloc(SHARED);
  fill(shared, SHARED, 1);
  for (int i = 0; i < 2; i++)
    if (MUST(fork()) == 0) {
      fill(shared, SHARED / 2, 10 + i);
      pid_t child = MUST(fork());
      if (child) {
        if (waitpid(child, &state, 0) != child) _exit(1);
        _exit(!filled(shared, SHARED / 2, 10 + i) || WEXITSTATUS(state));
      }
      char *own = malloc(OWN);
      fill(own, OWN, 20 + i);
      write(answer[1], &zero, sizeof zero);
      if (read(ask[0], &zero, sizeof zero) != sizeof zero) _exit(1);
      _exit(!filled(own, OWN, 20 + i) || !filled(shared, SHARED / 2, 10 + i));
    }
  for (int i = 0; i < 2; i++) CHECK(read(answer[0], &zero, sizeof zero) == sizeof zero, "a child is missing");
  cycle();
  for (int i = 0; i < 2; i++) write(ask[1], &zero, sizeof zero);
  for (int i = 0; i < 2; i++) CHECK(wait(&state) > 0 && WIFEXITED(state) && WEXITSTATUS(state) == 0, "a parent or its child has other memory");
  return pass();
}
