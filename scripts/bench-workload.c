// What scripts/bench dumps and restores, and what it runs the tool with.
//   bench-workload run FD COMMAND...  run a command; write to FD its wall time in ns, its peak memory in KiB, its exit status
//   bench-workload KIND N READY       be such a program; create the file READY when it is set up, then wait for ever
// `run` exists because a process that is forked by a larger one inherits that one's peak memory until it executes another program
// (fs/exec.c: exec_mmap); this one is small.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void need(int condition, const char *what) {
  if (condition) return;
  perror(what);
  exit(1);
}

static int run(int fd, char **command) {
  struct timespec begin, end;
  struct rusage usage;
  int status;
  fcntl(fd, F_SETFD, FD_CLOEXEC);  // not for the command
  clock_gettime(CLOCK_MONOTONIC, &begin);
  pid_t pid = fork();
  need(pid >= 0, "fork");
  if (pid == 0) {
    execv(command[0], command);
    _exit(127);
  }
  need(wait4(pid, &status, 0, &usage) == pid, "wait4");
  clock_gettime(CLOCK_MONOTONIC, &end);
  long long ns = (end.tv_sec - begin.tv_sec) * 1000000000LL + end.tv_nsec - begin.tv_nsec;
  dprintf(fd, "%lld %ld %d\n", ns, usage.ru_maxrss, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  return 0;
}

// Pages that are all different, and not zero.
static void use_memory(long mebibytes) {
  size_t size = (size_t)mebibytes << 20;
  unsigned char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  need(memory != MAP_FAILED, "mmap");
  for (size_t at = 0; at < size; at += 4096) {
    memset(memory + at, (int)(at >> 12 & 0x7f) + 1, 4096);
    memcpy(memory + at, &at, sizeof at);
  }
}

static void have_children(long count) {
  for (long i = 0; i < count; i++) {
    pid_t pid = fork();
    need(pid >= 0, "fork");
    if (pid == 0)
      for (;;) pause();
  }
}

static void *idle(void *unused) {
  for (;;) pause();
  return unused;
}

static void have_threads(long count) {
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 64 << 10);
  for (long i = 0; i < count; i++) {
    pthread_t thread;
    need(pthread_create(&thread, &small, idle, 0) == 0, "pthread_create");
  }
}

// Each a file description of its own.
static void open_files(long count) {
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  for (long i = 0; i < count; i++) need(open("/proc/self/exe", O_RDONLY) >= 0 || open("/dev/null", O_RDONLY) >= 0, "open");
}

// Neighbours differ in protection, so that the kernel does not merge them; each second one has a page.
static void map_ranges(long count) {
  char *memory = mmap(0, (size_t)count << 12, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  need(memory != MAP_FAILED, "mmap");
  for (long i = 0; i < count; i += 2) {
    need(mprotect(memory + (i << 12), 4096, PROT_READ | PROT_WRITE) == 0, "mprotect");
    memory[i << 12] = 1;
  }
}

// Address space of which there is one page in each 2 MiB.
static void map_sparsely(long gibibytes) {
  size_t size = (size_t)gibibytes << 30;
  char *memory = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  need(memory != MAP_FAILED, "mmap");
  need(madvise(memory, size, MADV_NOHUGEPAGE) == 0, "madvise");
  for (size_t at = 0; at < size; at += 2 << 20) memory[at] = 1;
}

int main(int argc, char **argv) {
  if (argc > 3 && !strcmp(argv[1], "run")) return run(atoi(argv[2]), argv + 3);
  if (argc != 4) return 64;
  const char *kind = argv[1];
  long n = atol(argv[2]);
  if (!strcmp(kind, "mem")) use_memory(n);
  else if (!strcmp(kind, "procs")) have_children(n);
  else if (!strcmp(kind, "threads")) have_threads(n);
  else if (!strcmp(kind, "fds")) open_files(n);
  else if (!strcmp(kind, "vmas")) map_ranges(n);
  else if (!strcmp(kind, "sparse")) map_sparsely(n);
  else if (strcmp(kind, "trivial")) return 64;
  int ready = open(argv[3], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  need(ready >= 0, argv[3]);
  close(ready);
  for (;;) pause();
}
