// Deleted files that are still open: content, holes, size, mode, owner, offset, times; shared with a child; also O_TMPFILE.
#include "check.h"

int main(int argc, char **argv) {
  begin(argv);
  static char content[20000], now[20000];
  fill(content, sizeof content, 1);
  int whole = MUST(open(path_of("whole"), O_RDWR | O_CREAT | O_EXCL, 0644)), sparse = MUST(open(path_of("sparse"), O_RDWR | O_CREAT | O_EXCL, 0600));
  int reopened = MUST(open(path_of("whole"), O_RDONLY)), empty = MUST(open(path_of("empty"), O_RDWR | O_CREAT | O_EXCL, 0600));
  char folder[512];
  strcpy(folder, base), *strrchr(folder, '/') = 0;
  int nameless = open(folder, O_TMPFILE | O_RDWR, 0640);
  if (nameless >= 0) MUST(write(nameless, "nameless", 8));
  MUST(write(whole, content, sizeof content)), MUST(fchmod(whole, 04751)), MUST(fchown(whole, 1234, 4321)), MUST(fchmod(whole, 04751));
  MUST(ftruncate(sparse, 64 << 20)), MUST(pwrite(sparse, content, 4096, 8 << 20)), MUST(pwrite(sparse, content, 5000, (64 << 20) - 5000));
  MUST(unlink(path_of("whole"))), MUST(unlink(path_of("sparse"))), MUST(unlink(path_of("empty")));
  MUST(close(MUST(open(path_of("empty"), O_RDWR | O_CREAT | O_EXCL, 0600))));  // The name is in use again, by another file.
  MUST(lseek(whole, 100, SEEK_SET)), MUST(lseek(reopened, 200, SEEK_SET));
  struct timespec times[2] = {{1000000000, 5}, {1100000000, 7}};
  MUST(futimens(whole, times));
  pid_t child = MUST(fork());
  if (child == 0) {
    child_cycle("child"), await("written");
    CHECK(pread(whole, now, 3, 0) == 3 && !memcmp(now, "new", 3), "the child has another file");
    CHECK(lseek(whole, 0, SEEK_CUR) == 300, "the child has another offset");
    _exit(0);
  }
  await("child");
  cycle();
  struct stat st, other;
  MUST(fstat(whole, &st)), MUST(fstat(reopened, &other));
  CHECK(st.st_nlink == 0 && st.st_size == sizeof content && (st.st_mode & 07777) == 04751 && st.st_uid == 1234 && st.st_gid == 4321,
        "%d links, %ld bytes, mode %o, owner %d:%d", (int)st.st_nlink, st.st_size, st.st_mode, st.st_uid, st.st_gid);
  CHECK(st.st_mtim.tv_sec == 1100000000 && st.st_mtim.tv_nsec / 1000 == 0, "modified at %ld.%09ld", st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
  CHECK(st.st_ino == other.st_ino && st.st_dev == other.st_dev, "two descriptors of one file are of two files now");
  CHECK(lseek(whole, 0, SEEK_CUR) == 100 && lseek(reopened, 0, SEEK_CUR) == 200, "offsets");
  CHECK(pread(reopened, now, sizeof now, 0) == sizeof now && !memcmp(now, content, sizeof now), "content");
  MUST(fstat(sparse, &st));
  CHECK(st.st_size == 64 << 20 && st.st_blocks < 64, "the sparse file: %ld bytes, %ld blocks", st.st_size, st.st_blocks);
  CHECK(pread(sparse, now, 4096, 8 << 20) == 4096 && !memcmp(now, content, 4096), "the sparse file's first part");
  CHECK(pread(sparse, now, 6000, (64 << 20) - 5000) == 5000 && !memcmp(now, content, 5000), "the sparse file's second part");
  MUST(fstat(empty, &st)), MUST(stat(path_of("empty"), &other));
  CHECK(st.st_size == 0 && st.st_nlink == 0 && other.st_nlink == 1 && other.st_ino != st.st_ino, "the deleted file and its name's new owner");
  if (nameless >= 0) CHECK(pread(nameless, now, 100, 0) == 8 && !memcmp(now, "nameless", 8), "the one that never had a name");
  CHECK(access(path_of("whole"), F_OK) && access(path_of("sparse"), F_OK), "a deleted name is there again");
  MUST(pwrite(whole, "new", 3, 0)), MUST(lseek(whole, 300, SEEK_SET)), here("written");
  child_passed(child);
  return pass();
}
