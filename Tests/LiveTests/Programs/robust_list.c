// The robust list head is registered again: a thread dies with a robust mutex, and the kernel marks it.
#include "check.h"

static pthread_mutex_t lock;
static void *head;
static volatile int go;

static void *holder(void *none) {
  size_t size;
  void *now;
  MUST(syscall(SYS_get_robust_list, 0, &head, &size));
  pthread_mutex_lock(&lock);
  here("holder");
  while (!go) nanosleep(&(struct timespec){0, MS}, 0);
  MUST(syscall(SYS_get_robust_list, 0, &now, &size));
  CHECK(now == head && size == 24, "the head is %p, %zu bytes; it was %p", now, size, head);
  return none;  // with the mutex held
}

int main(int argc, char **argv) {
  begin(argv);
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes), pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutex_init(&lock, &attributes);
  pthread_t thread;
  CHECK(pthread_create(&thread, 0, holder, 0) == 0, "no thread");
  await("holder");
  cycle();
  CHECK(pthread_mutex_trylock(&lock) == EBUSY, "the mutex is not held");
  go = 1;
  struct timespec end;
  clock_gettime(CLOCK_REALTIME, &end);
  end.tv_sec += 5;
  int error = pthread_mutex_timedlock(&lock, &end);
  CHECK(error == EOWNERDEAD, "%s", strerror(error));
  return pass();
}
