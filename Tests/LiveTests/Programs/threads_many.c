// 200 threads, all in the same futex wait, wake up and add up.
#include "check.h"

#define N 200
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static int go, waiting;
static long sum;

static void *one(void *argument) {
  pthread_mutex_lock(&lock);
  waiting++;
  while (!go) pthread_cond_wait(&condition, &lock);
  sum += (long)argument;
  pthread_mutex_unlock(&lock);
  return 0;
}

int main(int argc, char **argv) {
  begin(argv);
  pthread_t threads[N];
  pthread_attr_t attributes;
  pthread_attr_init(&attributes), pthread_attr_setstacksize(&attributes, 65536);
  for (long i = 0; i < N; i++) CHECK(pthread_create(&threads[i], &attributes, one, (void *)i) == 0, "no thread");
  for (int all = 0; !all; nanosleep(&(struct timespec){0, MS}, 0))
    pthread_mutex_lock(&lock), all = waiting == N, pthread_mutex_unlock(&lock);
  cycle();
  pthread_mutex_lock(&lock);
  CHECK(waiting == N && sum == 0, "%d waiting, sum %ld", waiting, sum);
  go = 1;
  pthread_cond_broadcast(&condition);
  pthread_mutex_unlock(&lock);
  for (int i = 0; i < N; i++) pthread_join(threads[i], 0);
  CHECK(sum == N * (N - 1) / 2, "%ld", sum);
  return pass();
}
