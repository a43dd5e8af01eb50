// So many mappings, descriptors and threads that they are not looked at one by one: each kind of each among them, and every one is found
// as it was. Of the threads some have something of their own.
#include "check.h"
#include <sched.h>
#include <sys/resource.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { MAPPINGS = 1200, FILES = 600, THREADS = 200, PAGE = 4096 };

static const struct {
  int advice;
  const char *letters;
} advices[] = {
    {MADV_NORMAL, ""},   {MADV_SEQUENTIAL, "sr"}, {MADV_RANDOM, "rr"},     {MADV_DONTFORK, "dc"},   {MADV_DONTDUMP, "dd"},
    {MADV_WIPEONFORK, "wf"}, {MADV_HUGEPAGE, "hg"}, {MADV_NOHUGEPAGE, "nh"}, {MADV_MERGEABLE, "mg"},
};
enum { ADVICES = sizeof advices / sizeof *advices };

static char *at[MAPPINGS];

static void make_mappings(void) {
  int file = MUST(open(path_of("mapped"), O_RDWR | O_CREAT | O_TRUNC, 0600));
  MUST(ftruncate(file, 4 * PAGE));
  for (int i = 0; i < MAPPINGS; i++) {
    int flags = i % 50 == 7 ? MAP_SHARED | MAP_ANONYMOUS : i % 50 == 9 ? MAP_SHARED : i % 50 == 11 ? MAP_PRIVATE : MAP_PRIVATE | MAP_ANONYMOUS;
    if (i % 50 == 13) flags |= MAP_NORESERVE;
    at[i] = MUST(mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, flags, flags & MAP_ANONYMOUS ? -1 : file, 0));
    if (flags != MAP_SHARED) *at[i] = i;
    MUST(mprotect(at[i] + 3 * PAGE, PAGE, PROT_NONE));
    // Where the kernel lacks the advice nothing is found of it afterwards, either.
    if (flags == (MAP_PRIVATE | MAP_ANONYMOUS)) madvise(at[i], 3 * PAGE, advices[i % ADVICES].advice);
    if (i % 100 == 21) MUST(mlock(at[i], PAGE));
  }
  close(file);
}

// The letters of the mapping that begins at each address, as smaps has them.
static char before[MAPPINGS][128], after[MAPPINGS][128];

static void read_flags(char list[MAPPINGS][128]) {
  FILE *smaps = fopen("/proc/self/smaps", "r");
  char line[8192];
  unsigned long start = 0, first, end;
  while (fgets(line, sizeof line, smaps)) {
    if (sscanf(line, "%lx-%lx ", &first, &end) == 2) start = first;
    if (strncmp(line, "VmFlags:", 8)) continue;
    for (int i = 0; i < MAPPINGS; i++) {
      if ((unsigned long)at[i] != start) continue;
      // Not what a restore cannot know: whether pages were written since somebody asked.
      char *dirty = strstr(line, " sd");
      if (dirty) memmove(dirty, dirty + 3, strlen(dirty + 3) + 1);
      snprintf(list[i], sizeof list[i], "%s", line + 9);
    }
  }
  fclose(smaps);
}

struct descriptor {
  int number, flags, closes;
  off_t position;
};
static struct descriptor descriptors[FILES];
static int pipes[40][2], dup_of[FILES];

static void make_descriptors(void) {
  for (int i = 0; i < FILES; i++) {
    int flags = i % 4 == 3 ? O_RDWR | O_APPEND : i % 4 == 2 ? O_RDWR : O_RDONLY;
    int fd;
    dup_of[i] = -1;
    switch (i % 20) {
    case 5: fd = MUST(open("/", O_RDONLY | O_DIRECTORY)); break;
    case 6: fd = MUST(open(path_of("mapped"), O_PATH)); break;
    case 7: fd = MUST(eventfd(i, 0)); break;
    case 8: fd = MUST(open("/dev/zero", O_RDONLY)); break;
    case 9: dup_of[i] = i - 5, fd = MUST(dup(descriptors[i - 5].number)); break;
    default: fd = MUST(open(path_of("mapped"), flags | (i % 3 ? 0 : O_CLOEXEC)));
    }
    int plain = i % 20 < 5 || i % 20 > 9;
    if (plain) MUST(lseek(fd, i * 3, SEEK_SET));
    if (i == 301) MUST(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK));
    if (i == 302) MUST(fcntl(fd, F_SETOWN, getpid()));
    if (i == 303) MUST(fcntl(fd, F_SETSIG, SIGUSR2));
    descriptors[i].number = fd;
  }
  for (int i = 0; i < 40; i++) {
    MUST(pipe2(pipes[i], i % 3 == 1 ? O_NONBLOCK : i % 3 == 2 ? O_CLOEXEC : 0));
    if (i == 5) CHECK(write(pipes[i][1], "content", 7) == 7, "pipe");
    if (i == 6) MUST(fcntl(pipes[i][1], F_SETPIPE_SZ, PAGE));
    if (i == 7) MUST(fcntl(pipes[i][0], F_SETOWN, getpid()));
  }
  for (int i = 0; i < FILES; i++) {
    struct descriptor *d = &descriptors[i];
    d->flags = MUST(fcntl(d->number, F_GETFL));
    d->closes = MUST(fcntl(d->number, F_GETFD));
    d->position = lseek(d->number, 0, SEEK_CUR);
  }
}

static void check_descriptors(void) {
  for (int i = 0; i < FILES; i++) {
    struct descriptor *d = &descriptors[i];
    CHECK(fcntl(d->number, F_GETFL) == d->flags, "descriptor %d: flags 0%o, not 0%o", d->number, fcntl(d->number, F_GETFL), d->flags);
    CHECK(fcntl(d->number, F_GETFD) == d->closes, "descriptor %d: close-on-exec", d->number);
    off_t position = lseek(d->number, 0, SEEK_CUR);
    CHECK(position == d->position, "descriptor %d is at %ld, not %ld", d->number, position, d->position);
  }
  CHECK(fcntl(descriptors[302].number, F_GETOWN) == getpid(), "the owner");
  CHECK(fcntl(descriptors[303].number, F_GETSIG) == SIGUSR2 && fcntl(descriptors[304].number, F_GETSIG) == 0, "the signal");
  for (int i = 0; i < FILES; i++) {
    if (dup_of[i] < 0) continue;
    MUST(lseek(descriptors[dup_of[i]].number, 9000 + i, SEEK_SET));
    CHECK(lseek(descriptors[i].number, 0, SEEK_CUR) == 9000 + i, "descriptor %d is no duplicate any more", descriptors[i].number);
    CHECK(lseek(descriptors[dup_of[i] - 1].number, 0, SEEK_CUR) == descriptors[dup_of[i] - 1].position, "two are the same now");
  }
  uint64_t count;
  for (int i = 7; i < FILES; i += 20) CHECK(read(descriptors[i].number, &count, 8) == 8 && count == (uint64_t)i, "eventfd %d", i);
  char text[8] = "";
  CHECK(read(pipes[5][0], text, 7) == 7 && !strcmp(text, "content"), "the pipe has '%s'", text);
  CHECK(fcntl(pipes[6][0], F_GETPIPE_SZ) == PAGE && fcntl(pipes[8][0], F_GETPIPE_SZ) == 16 * PAGE, "the sizes of pipes");
  CHECK(fcntl(pipes[7][0], F_GETOWN) == getpid() && fcntl(pipes[8][0], F_GETOWN) == 0, "the owner of a pipe");
  for (int i = 0; i < 40; i++) {
    int mode = i % 3 == 1 ? O_NONBLOCK : 0, closes = i % 3 == 2;
    for (int k = 0; k < 2; k++) {
      CHECK((fcntl(pipes[i][k], F_GETFL) & O_NONBLOCK) == mode, "pipe %d: flags", i);
      CHECK(fcntl(pipes[i][k], F_GETFD) == closes, "pipe %d: close-on-exec", i);
    }
    CHECK(write(pipes[i][1], &i, sizeof i) == sizeof i, "pipe %d: %m", i);
  }
  for (int i = 0, got; i < 40; i++) CHECK(read(pipes[i][0], &got, sizeof got) == sizeof got && got == i, "pipe %d is pipe %d", i, got);
}

static int ready;
static char states[THREADS][1024];

// What a thread has of its own, or may have, besides rights.
struct own {
  char name[16];
  stack_t stack;
  struct robust_list_head *list;
  size_t length;
  int *clears;
  unsigned long slack;
  int death, machine_checks, counter, policy, nice, io;
  cpu_set_t processors;
};
static struct own owns[THREADS];
static int processors;

static void give_own(long i) {
  char name[16];
  snprintf(name, sizeof name, i % 7 == 0 ? "x" : "thread number %ld", i);
  if (i % 5) MUST(prctl(PR_SET_NAME, name));
  stack_t stack = {.ss_sp = malloc(SIGSTKSZ), .ss_size = SIGSTKSZ, .ss_flags = i % 4 ? 0 : (int)(1u << 31) /* SS_AUTODISARM */};
  if (i % 3) MUST(sigaltstack(&stack, NULL));
  if (i == 100) stack.ss_flags = SS_DISABLE, MUST(sigaltstack(&stack, NULL));
  if (i % 40 == 4) MUST(syscall(SYS_set_robust_list, NULL, sizeof(struct robust_list_head)));
  if (i % 40 == 5) MUST(syscall(SYS_set_tid_address, NULL));
  if (i % 40 == 6) MUST(prctl(PR_SET_TIMERSLACK, 70000 + i));
  // Ignored: who restores and detaches is the parent, and ends.
  if (i == 60) MUST(prctl(PR_SET_PDEATHSIG, SIGIO));
  // Where the kernel cannot be asked for it, nothing has changed afterwards, either.
  if (i == 61) prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
  struct sched_param none = {0};
  if (i == 62) prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0);
  if (i == 63) MUST(syscall(SYS_sched_setscheduler, 0, SCHED_BATCH, &none));
  if (i == 64) MUST(syscall(SYS_sched_setscheduler, 0, SCHED_OTHER | 0x40000000 /* SCHED_RESET_ON_FORK */, &none));
  if (i == 65) MUST(setpriority(PRIO_PROCESS, 0, 7));
  if (i == 66) MUST(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 3));
  if (i == 67) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processors - 1, &one);
    MUST(sched_setaffinity(0, sizeof one, &one));
  }
}

static void read_own(struct own *own) {
  memset(own, 0, sizeof *own);
  MUST(prctl(PR_GET_NAME, own->name));
  MUST(sigaltstack(NULL, &own->stack));
  MUST(syscall(SYS_get_robust_list, 0, &own->list, &own->length));
  MUST(prctl(PR_GET_TID_ADDRESS, &own->clears));
  own->slack = MUST(prctl(PR_GET_TIMERSLACK));
  MUST(prctl(PR_GET_PDEATHSIG, &own->death));
  own->machine_checks = prctl(PR_MCE_KILL_GET, 0, 0, 0, 0);
  prctl(PR_GET_TSC, &own->counter);
  own->policy = MUST(syscall(SYS_sched_getscheduler, 0));
  own->nice = getpriority(PRIO_PROCESS, 0);
  own->io = MUST(syscall(SYS_ioprio_get, 1, 0));
  MUST(sched_getaffinity(0, sizeof own->processors, &own->processors));
}

static void check_own(long i) {
  struct own now, *then = &owns[i];
  read_own(&now);
  CHECK(!strcmp(now.name, then->name), "thread %ld is called '%s', not '%s'", i, now.name, then->name);
  int same_stack = now.stack.ss_sp == then->stack.ss_sp && now.stack.ss_size == then->stack.ss_size && now.stack.ss_flags == then->stack.ss_flags;
  CHECK(same_stack, "thread %ld: its alternate stack has flags %x, not %x", i, now.stack.ss_flags, then->stack.ss_flags);
  CHECK(now.list == then->list && now.length == then->length, "thread %ld: its robust list", i);
  CHECK(now.clears == then->clears, "thread %ld: what is cleared at its exit", i);
  CHECK(now.slack == then->slack && now.death == then->death, "thread %ld: its timer slack or death signal", i);
  CHECK(now.machine_checks == then->machine_checks && now.counter == then->counter, "thread %ld: machine checks or time stamps", i);
  CHECK(now.policy == then->policy && now.nice == then->nice && now.io == then->io, "thread %ld: its scheduling", i);
  CHECK(CPU_EQUAL(&now.processors, &then->processors), "thread %ld: its processors", i);
}

// What the kernel says of the calling thread's rights.
static void own_state(char *text, size_t size) {
  FILE *status = fopen("/proc/thread-self/status", "r");
  char line[256];
  *text = 0;
  while (fgets(line, sizeof line, status))
    if (!strncmp(line, "Uid", 3) || !strncmp(line, "Gid", 3) || !strncmp(line, "Cap", 3) || !strncmp(line, "NoNew", 5) ||
        !strncmp(line, "Seccomp:", 8) || !strncmp(line, "SigBlk", 6))
      strncat(text, line, size - strlen(text) - 1);
  fclose(status);
}

static void *thread(void *argument) {
  long i = (long)argument;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, 34 + i % 20);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  if (i == 50) MUST(syscall(SYS_setresgid, 1234, 1234, 1234));
  if (i == 51) MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  if (i == 52) {
    struct sock_filter allow[] = {{0x06, 0, 0, SECCOMP_RET_ALLOW}};
    struct sock_fprog filter = {1, allow};
    MUST(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter));
  }
  if (i == 53) MUST(syscall(SYS_setresuid, -1, 4321, -1));
  give_own(i);
  own_state(states[i], sizeof states[i]);
  read_own(&owns[i]);
  __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
  await("check");
  char now[1024];
  own_state(now, sizeof now);
  CHECK(!strcmp(now, states[i]), "thread %ld:\n%snot\n%s", i, now, states[i]);
  check_own(i);
  __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
  for (;;) pause();
  return NULL;
}

int main(int argc, char **argv) {
  (void)argc;
  begin(argv);
  signal(SIGIO, SIG_IGN);
  make_mappings();
  make_descriptors();
  processors = sysconf(_SC_NPROCESSORS_ONLN);
  pthread_attr_t small;
  pthread_attr_init(&small);
  pthread_attr_setstacksize(&small, 65536);
  for (long i = 0; i < THREADS; i++) {
    pthread_t id;
    CHECK(pthread_create(&id, &small, thread, (void *)i) == 0, "thread %ld", i);
  }
  while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) < THREADS) usleep(1000);
  CHECK((unsigned)owns[4].stack.ss_flags == 1u << 31 && owns[5].stack.ss_flags == 0 && owns[100].stack.ss_flags == SS_DISABLE, "stacks");
  read_flags(before);
  CHECK(strstr(before[0], "rd"), "no flags are read");
  cycle();
  read_flags(after);
  for (int i = 0; i < MAPPINGS; i++) {
    int shares = i % 50 == 9;
    CHECK(*at[i] == (shares ? 0 : (char)i), "mapping %d has %d", i, *at[i]);
    CHECK(!strcmp(before[i], after[i]), "mapping %d has %s, not %s", i, after[i], before[i]);
  }
  // Some kernels cannot merge pages.
  for (int i = 1; i < ADVICES - 1; i++) CHECK(strstr(after[i + 2 * ADVICES], advices[i].letters), "advice %d: %s", i, after[i + 2 * ADVICES]);
  check_descriptors();
  while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) < 2 * THREADS) usleep(1000);
  return pass();
}
