// eventfd: the counter, semaphore mode, flags, shared with a child.
#include "check.h"
#include <sys/eventfd.h>

int main(int argc, char **argv) {
  begin(argv);
  int plain = MUST(eventfd(7, 0)), semaphore = MUST(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC)), zero = MUST(eventfd(0, EFD_NONBLOCK));
  int largest = MUST(eventfd(0, EFD_NONBLOCK));
  uint64_t value = UINT64_MAX - 1;
  MUST(write(largest, &value, 8));
  pid_t child = MUST(fork());
  if (child == 0) child_cycle("child"), value = 5, MUST(write(plain, &value, 8)), _exit(0);
  await("child");
  cycle();
  child_passed(child);
  CHECK(read(plain, &value, 8) == 8 && value == 12, "%lu", value);
  for (int i = 0; i < 3; i++) CHECK(read(semaphore, &value, 8) == 8 && value == 1, "semaphore: %lu", value);
  CHECK(read(semaphore, &value, 8) == -1 && errno == EAGAIN, "the semaphore has more");
  CHECK(read(zero, &value, 8) == -1 && errno == EAGAIN, "zero has something");
  CHECK(read(largest, &value, 8) == 8 && value == UINT64_MAX - 1, "%lu", value);
  CHECK(fcntl(semaphore, F_GETFD) == FD_CLOEXEC && fcntl(plain, F_GETFD) == 0 && !(fcntl(plain, F_GETFL) & O_NONBLOCK), "flags");
  return pass();
}
