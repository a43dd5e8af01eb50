// memfd: name, seals, mode, offset, holes, mappings shared and private, shared with a child, one reopened read-only.
#include "check.h"
#define PAGE 4096ul

int main(int argc, char **argv) {
  begin(argv);
  int fd = MUST((int)syscall(SYS_memfd_create, "some name", MFD_CLOEXEC | MFD_ALLOW_SEALING)), plain = MUST((int)syscall(SYS_memfd_create, "plain", 0));
  static char content[3 * PAGE];
  fill(content, sizeof content, 1);
  MUST(ftruncate(fd, 1 << 20));
  MUST(pwrite(fd, content, sizeof content, 65536));
  char *shared = MUST(mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  char *private = MUST(mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  fill(private, PAGE, 2), fill(shared + PAGE, PAGE, 3);
  MUST(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
  MUST(lseek(fd, 12345, SEEK_SET)), MUST(fchmod(fd, 0600));
  char self[64];
  snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
  int readonly = MUST(open(self, O_RDONLY));
  char *looking = MUST(mmap(0, PAGE, PROT_READ, MAP_SHARED, readonly, 0));
  MUST(write(plain, "hello", 5));
  char *unowned = MUST(mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, plain, 0));
  close(plain);  // mapped only
  pid_t child = MUST(fork());
  if (child == 0) {
    child_cycle("child"), await("written");
    CHECK(filled(shared + 4 * PAGE, PAGE, 5), "the child does not see what its parent writes");
    CHECK(lseek(fd, 0, SEEK_CUR) == 23456, "the offset is not shared with the child");
    CHECK(unowned[0] == 'J', "the mapped memfd is not shared with the child");
    _exit(0);
  }
  await("child");
  cycle();
  char name[64] = "";
  struct stat st;
  MUST(readlink(self, name, 63)), MUST(fstat(fd, &st));
  CHECK(!strcmp(name, "/memfd:some name (deleted)"), "it is named %s", name);
  CHECK((st.st_mode & 07777) == 0600 && st.st_size == 1 << 20, "mode %o, size %ld", st.st_mode, st.st_size);
  CHECK(st.st_blocks <= 8 * 8, "its holes are filled: %ld blocks", st.st_blocks);
  CHECK(fcntl(fd, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), "its seals are %#x", fcntl(fd, F_GET_SEALS));
  CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && fcntl(readonly, F_GETFD) == 0, "close-on-exec");
  CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR && (fcntl(readonly, F_GETFL) & O_ACCMODE) == O_RDONLY, "access modes");
  CHECK(lseek(fd, 0, SEEK_CUR) == 12345 && lseek(readonly, 0, SEEK_CUR) == 0, "offsets");
  CHECK(filled(private, PAGE, 2) && filled(shared + PAGE, PAGE, 3) && filled(shared + 65536, sizeof content, 1), "content");
  CHECK(!memcmp(unowned, "hello", 5), "content of the one that is only mapped");
  fill(shared, PAGE, 4), fill(shared + 4 * PAGE, PAGE, 5), unowned[0] = 'J';
  static char now[PAGE];
  CHECK(pread(fd, now, PAGE, 0) == PAGE && filled(now, PAGE, 4) && filled(looking, PAGE, 4), "descriptor and mapping are apart");
  CHECK(filled(private, PAGE, 2), "a private page changed");
  MUST(lseek(fd, 23456, SEEK_SET)), here("written");
  child_passed(child);
  return pass();
}
