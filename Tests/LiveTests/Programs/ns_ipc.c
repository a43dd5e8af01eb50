// System V shared memory, semaphores and message queues of an IPC namespace, with their identifiers, and of one nested in it that
// has the same identifiers. The machine's own objects stay as they are.
#include "check.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#define SIZE (5 * 4096 + 100)

struct text {
  long type;
  char text[4000];
};

static struct objects {
  int shm, loose, removed, sem, msg;
  char *attached, *gone;
} it;

static void number(const char *file, const char *text, size_t size, char *old) {
  int fd = MUST(open(file, old ? O_RDONLY : O_WRONLY));
  if (old) old[MUST(read(fd, old, size - 1))] = 0;
  else MUST(write(fd, text, strlen(text)));
  close(fd);
}

static void make(int seed) {
  // Identifiers that are not the first ones.
  for (int i = 0; i < 3; i++) MUST(shmctl(MUST(shmget(IPC_PRIVATE, 4096, 0600)), IPC_RMID, 0));
  it.shm = MUST(shmget(0x1234, SIZE, IPC_CREAT | 0640));
  it.loose = MUST(shmget(IPC_PRIVATE, 1 << 20, 0606));
  it.removed = MUST(shmget(IPC_PRIVATE, 8192, 0600));
  char *loose = MUST(shmat(it.loose, 0, 0));
  fill(loose + (512 << 10), 4096, seed + 1);
  MUST(shmdt(loose));
  it.attached = MUST(shmat(it.shm, 0, 0));
  fill(it.attached, SIZE / 8 * 8, seed);
  it.gone = MUST(shmat(it.removed, (void *)0x700000000, 0));
  MUST(shmctl(it.removed, IPC_RMID, 0));
  fill(it.gone, 8192, seed + 2);
  struct shmid_ds shm;
  MUST(shmctl(it.shm, IPC_STAT, &shm));
  shm.shm_perm.uid = 1234, shm.shm_perm.gid = 4321;
  MUST(shmctl(it.shm, IPC_SET, &shm));

  MUST(semctl(MUST(semget(IPC_PRIVATE, 1, 0600)), 0, IPC_RMID));
  it.sem = MUST(semget(0x77, 5, IPC_CREAT | 0660));
  unsigned short values[5] = {seed, 1, 0, 32767, 5};
  MUST(semctl(it.sem, 0, SETALL, values));

  it.msg = MUST(msgget(0x88, IPC_CREAT | 0600));
  MUST(msgget(0x89, IPC_CREAT | 0600));  // An empty one.
  struct text message;
  for (int i = 0; i < 4; i++) {
    message.type = 10 + i;
    fill(message.text, 4000, seed + i);
    MUST(msgsnd(it.msg, &message, i * 1001, 0));
  }
}

static void check(int seed) {
  CHECK(shmget(0x1234, 0, 0) == it.shm, "the segment's identifier: %m");
  CHECK(filled(it.attached, SIZE / 8 * 8, seed), "the content of the attached segment");
  CHECK(filled(it.gone, 8192, seed + 2), "the content of the removed segment");
  struct shmid_ds shm;
  MUST(shmctl(it.shm, IPC_STAT, &shm));
  CHECK(shm.shm_segsz == SIZE && (shm.shm_perm.mode & 0777) == 0640, "size %zu, mode %o", shm.shm_segsz, shm.shm_perm.mode);
  CHECK(shm.shm_perm.uid == 1234 && shm.shm_perm.gid == 4321 && shm.shm_perm.cuid == 0, "the segment's owner");
  CHECK(shm.shm_nattch >= 1, "nobody is attached");
  MUST(shmctl(it.removed, IPC_STAT, &shm));
  CHECK(shm.shm_perm.mode & SHM_DEST, "the removed segment is not removed");
  MUST(shmctl(it.loose, IPC_STAT, &shm));
  CHECK((shm.shm_perm.mode & 0777) == 0606 && shm.shm_nattch == 0, "the loose segment");
  char *loose = MUST(shmat(it.loose, 0, 0));
  CHECK(filled(loose + (512 << 10), 4096, seed + 1) && loose[0] == 0 && loose[(1 << 20) - 1] == 0, "its content");
  MUST(shmdt(loose)), MUST(shmdt(it.attached)), MUST(shmdt(it.gone));
  CHECK(shmctl(it.removed, IPC_STAT, &shm) < 0 && errno == EINVAL, "the removed segment is still there");

  CHECK(semget(0x77, 0, 0) == it.sem, "the set's identifier: %m");
  unsigned short values[5];
  MUST(semctl(it.sem, 0, GETALL, values));
  CHECK(values[0] == seed && values[1] == 1 && values[3] == 32767 && values[4] == 5, "the semaphores");
  struct semid_ds sem;
  MUST(semctl(it.sem, 0, IPC_STAT, &sem));
  CHECK((sem.sem_perm.mode & 0777) == 0660, "the set's mode %o", sem.sem_perm.mode);

  CHECK(msgget(0x88, 0) == it.msg, "the queue's identifier: %m");
  struct text message;
  static char expected[4000];
  for (int i = 3; i >= 0; i--) {
    CHECK(msgrcv(it.msg, &message, 4000, 10 + i, IPC_NOWAIT) == i * 1001, "message %d: %m", i);
    fill(expected, 4000, seed + i);
    CHECK(!memcmp(message.text, expected, i * 1001), "the text of message %d", i);
  }
  CHECK(msgrcv(it.msg, &message, 4000, 0, IPC_NOWAIT) < 0 && errno == ENOMSG, "a message too many");
  MUST(msgctl(MUST(msgget(0x89, 0)), IPC_RMID, 0));
}

int main(int argc, char **argv) {
  begin(argv);
  static char machine[1 << 16], now[1 << 16], limit[64];
  pid_t outside = MUST(fork());
  if (outside == 0) {
    number("/proc/sysvipc/shm", 0, sizeof machine, machine);
    child_cycle("outside");
    number("/proc/sysvipc/shm", 0, sizeof now, now);
    CHECK(!strcmp(machine, now), "the machine's segments were %s, are %s", machine, now);
    _exit(0);
  }
  MUST(unshare(CLONE_NEWIPC));
  number("/proc/sys/kernel/msgmax", "5555", 0, 0);
  number("/proc/sys/kernel/sem", "300 31000 400 500", 0, 0);
  make(7);
  pid_t nested = MUST(fork());
  if (nested == 0) {
    MUST(shmdt(it.attached)), MUST(shmdt(it.gone));
    MUST(unshare(CLONE_NEWIPC));
    make(100);
    child_cycle("nested");
    check(100);
    number("/proc/sys/kernel/msgmax", 0, sizeof limit, limit);
    CHECK(atoi(limit) == 8192, "the nested msgmax is %s", limit);
    _exit(0);
  }
  pid_t waiter = MUST(fork());
  if (waiter == 0) {  // Reads the memory that its parent writes, once it is woken by a semaphore.
    MUST(shmdt(it.attached)), MUST(shmdt(it.gone));
    it.attached = MUST(shmat(it.shm, 0, SHM_RDONLY));
    here("waiter");
    struct sembuf down = {2, -1, 0};
    int got;
    do got = semop(it.sem, &down, 1);
    while (got < 0 && errno == EINTR);
    CHECK(got == 0, "semop: %m");
    CHECK(!strcmp(it.attached + 4096, "new"), "not the same memory");
    _exit(0);
  }
  await("outside"), await("nested"), await("waiter");
  cycle();
  number("/proc/sys/kernel/msgmax", 0, sizeof limit, limit);
  CHECK(atoi(limit) == 5555, "msgmax is %s", limit);
  number("/proc/sys/kernel/sem", 0, sizeof limit, limit);
  int a, b, c, d;
  CHECK(sscanf(limit, "%d %d %d %d", &a, &b, &c, &d) == 4 && a == 300 && b == 31000 && c == 400 && d == 500, "sem is %s", limit);
  char *again = MUST(shmat(it.shm, 0, 0)), saved[4];
  memcpy(saved, again + 4096, 4), strcpy(again + 4096, "new");
  CHECK(!strcmp(it.attached + 4096, "new"), "two attachments of one segment differ");
  struct sembuf up = {2, 1, 0};
  MUST(semop(it.sem, &up, 1));
  child_passed(waiter), memcpy(again + 4096, saved, 4), MUST(shmdt(again));
  check(7);
  child_passed(nested), child_passed(outside);
  return pass();
}
