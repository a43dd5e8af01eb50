// Mounts of its own: a tmpfs with all kinds of files in it, binds of a directory and of a file, sysfs, devpts, mqueue; working
// directory, open files and deleted files in the tmpfs; a nested namespace that shares the tmpfs and has another; a file that was
// opened before the namespace was left. The machine's mounts stay as they are.
#include "check.h"
#include "mounts.h"
#include <dirent.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

static struct mounts machine, mine, now;

static void write_file(const char *path, const char *text, mode_t mode) {
  int fd = MUST(open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  MUST(write(fd, text, strlen(text))), MUST(fchmod(fd, mode)), close(fd);
}

static void has(const char *path, const char *text) {
  char found[200];
  slurp(path, found, sizeof found);
  CHECK(!strcmp(found, text), "%s has \"%s\"", path, found);
}

static void is_at(int fd, const char *path) {
  char link[32], found[700];
  sprintf(link, "/proc/self/fd/%d", fd);
  ssize_t n = MUST(readlink(link, found, sizeof found - 1));
  found[n] = 0;
  CHECK(!strcmp(found, path), "descriptor %d is %s, not %s", fd, found, path);
}

static long type_at(const char *path) {
  struct statfs fs;
  MUST(statfs(path, &fs));
  return fs.f_type;
}

int main(int argc, char **argv) {
  begin(argv);
  char place[600], inside[700], path[800], deleted[800];
  sprintf(place, "%s.place", base);
  MUST(mkdir(place, 0755));
  write_file(path_of("file"), "outer file\n", 0644);
  pid_t outside = MUST(fork());
  if (outside == 0) {
    read_mounts(&machine);
    child_cycle("outside");
    read_mounts(&now);
    same_mounts(&machine, &now);
    CHECK(access(path_of("place/tmp"), F_OK) < 0, "the mounts are seen outside");
    _exit(0);
  }
  int before = MUST(open(path_of("file"), O_RDONLY));  // Through the machine's mount.

  MUST(unshare(CLONE_NEWNS));
  MUST(mount("none", "/", 0, MS_REC | MS_PRIVATE, 0));
  MUST(mount("things", place, "tmpfs", MS_NOSUID | MS_NODEV, "size=8m,mode=1775,uid=7"));
  sprintf(inside, "%s/dir", place);
  MUST(mkdir(inside, 0751)), MUST(chown(inside, 11, 12)), MUST(chdir(inside));
  write_file("text", "some text\n", 0604);
  MUST(link("text", "second")), MUST(symlink("text", "symbolic")), MUST(mkfifo("pipe", 0640));
  MUST(mknod("device", S_IFCHR | 0600, makedev(1, 3)));
  setxattr("text", "user.word", "value", 5, 0);
  int holes = MUST(open("holes", O_RDWR | O_CREAT, 0600));
  MUST(ftruncate(holes, 1 << 20)), MUST(pwrite(holes, "x", 1, 500000));
  struct timespec times[2] = {{1000, 1}, {2000, 123456789}};
  MUST(utimensat(AT_FDCWD, "text", times, 0));
  int text = MUST(open("text", O_RDWR));
  MUST(lseek(text, 5, SEEK_SET));
  sprintf(deleted, "%s/gone", inside);
  write_file(deleted, "deleted text\n", 0600);
  int gone = MUST(open(deleted, O_RDONLY));
  MUST(unlink(deleted));
  MUST(link("text", "third"));
  int unlinked = MUST(open("third", O_RDONLY));
  MUST(unlink("third"));
  char *shared = MUST(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, holes, 499712));

  for (const char *const *type = (const char *const[]){"sysfs", "devpts", "mqueue", 0}; *type; type++) {
    sprintf(path, "%s/%s", place, *type);
    MUST(mkdir(path, 0755)), MUST(mount(*type, path, *type, *type[0] == 's' ? MS_RDONLY : 0, 0));
  }
  sprintf(path, "%s/bind", place);
  MUST(mkdir(path, 0755)), MUST(mount("/usr", path, 0, MS_BIND, 0)), MUST(mount(0, path, 0, MS_BIND | MS_REMOUNT | MS_RDONLY, 0));
  int bound = MUST(open(path, O_RDONLY | O_DIRECTORY));
  sprintf(path, "%s/bound file", place);
  write_file(path, "under the mount\n", 0644), MUST(mount(path_of("file"), path, 0, MS_BIND, 0));
  int bound_file = MUST(open(path, O_RDONLY));
  sprintf(path, "%s/again", place);
  MUST(mkdir(path, 0755)), MUST(mount(inside, path, 0, MS_BIND, 0));  // A part of the tmpfs at a second place.
  read_mounts(&mine);

  pid_t nested = MUST(fork());
  if (nested == 0) {
    MUST(unshare(CLONE_NEWNS));
    sprintf(path, "%s/dir", place);
    MUST(mount("inner", path, "tmpfs", 0, "size=1m")), MUST(chdir(path));
    write_file("inner", "inner text\n", 0600);
    sprintf(path, "%s/mqueue", place), MUST(umount(path));
    read_mounts(&mine);
    child_cycle("nested");
    read_mounts(&now);
    same_mounts(&mine, &now);
    has("inner", "inner text\n");
    sprintf(path, "%s/dir/inner", place), has(path, "inner text\n");
    sprintf(path, "%s/again/text", place), has(path, "some text\n");
    await("checked");
    write_file(path, "changed\n", 0604);
    _exit(0);
  }
  pid_t covered = MUST(fork());
  if (covered == 0) {  // A mount comes over the directory that it is in.
    MUST(unshare(CLONE_NEWNS));
    int under = MUST(open(".", O_RDONLY | O_DIRECTORY));
    MUST(mount("cover", inside, "tmpfs", 0, "size=1m"));
    MUST(mkdir(strcat(strcpy(path, inside), "/dir"), 0755)), MUST(mount("second", path, "tmpfs", 0, "size=1m"));
    child_cycle("covered");
    has("second", "some text\n");
    CHECK(faccessat(under, "holes", F_OK, 0) == 0, "what is covered is not what was open");
    sprintf(path, "%s/text", inside), CHECK(access(path, F_OK) < 0, "it is not covered");
    sprintf(path, "%s/dir", inside), CHECK(type_at(path) == 0x01021994, "the mount on the mount");
    _exit(0);
  }
  await("nested"), await("outside"), await("covered");
  pid_t joined = MUST(fork());
  if (joined == 0) {  // Comes in from outside.
    sprintf(path, "/proc/%d/ns/mnt", nested);
    int there = MUST(open(path, O_RDONLY | O_CLOEXEC));
    MUST(setns(there, CLONE_NEWNS)), close(there), MUST(chdir(inside));
    child_cycle("joined");
    has("inner", "inner text\n");
    struct stat own, its;
    MUST(stat("/proc/self/ns/mnt", &own)), MUST(stat(path, &its));
    CHECK(own.st_ino == its.st_ino, "not the namespace that it joined");
    _exit(0);
  }
  await("joined");
  struct stat was, is;
  MUST(stat("text", &was));
  cycle();
  read_mounts(&now);
  same_mounts(&mine, &now);
  CHECK(!strcmp(getcwd(path, sizeof path), inside), "it is in %s", path);

  MUST(stat(place, &is));
  CHECK((is.st_mode & 07777) == 01775 && is.st_uid == 7, "the root: %o, %d", is.st_mode, is.st_uid);
  MUST(stat(".", &is));
  CHECK((is.st_mode & 07777) == 0751 && is.st_uid == 11 && is.st_gid == 12, "the directory: %o", is.st_mode);
  MUST(stat("text", &is));
  CHECK((is.st_mode & 07777) == 0604 && is.st_nlink == 2, "text: %o, %ld links", is.st_mode, (long)is.st_nlink);
  CHECK(is.st_mtim.tv_sec == 2000 && is.st_mtim.tv_nsec == 123456789, "its time is %ld", is.st_mtim.tv_sec);
  char value[6] = "";
  if (getxattr("text", "user.word", value, 5) != 5 || strcmp(value, "value"))
    CHECK(errno == EOPNOTSUPP, "its attribute is \"%s\": %m", value);
  MUST(stat("second", &was));
  CHECK(is.st_ino == was.st_ino, "a hard link is a file of its own");
  MUST(lstat("symbolic", &is)), CHECK(S_ISLNK(is.st_mode), "the symbolic link");
  MUST(stat("pipe", &is)), CHECK(S_ISFIFO(is.st_mode) && (is.st_mode & 0777) == 0640, "the named pipe");
  MUST(lstat("device", &is)), CHECK(S_ISCHR(is.st_mode) && is.st_rdev == makedev(1, 3), "the device file");

  char some[20] = "";
  is_at(text, strcat(strcpy(path, inside), "/text"));
  CHECK(read(text, some, 4) == 4 && !memcmp(some, "text", 4), "read %s", some);
  CHECK(pread(gone, some, 20, 0) == 13 && !memcmp(some, "deleted text\n", 13), "the deleted file has %s", some);
  MUST(fstat(gone, &is)), CHECK(is.st_nlink == 0, "the deleted file has a name");
  MUST(fstat(unlinked, &is)), CHECK(is.st_ino == was.st_ino && is.st_nlink == 2, "the third link");
  CHECK(pread(holes, some, 1, 500000) == 1 && some[0] == 'x', "the file with holes");
  MUST(fstat(holes, &is)), CHECK(is.st_blocks <= 16, "the holes are filled: %ld blocks", (long)is.st_blocks);
  CHECK(shared[500000 - 499712] == 'x', "the mapping"), shared[0] = 'y';
  CHECK(pread(holes, some, 1, 499712) == 1 && some[0] == 'y', "the mapping is of another file");
  DIR *names = opendir(".");
  for (struct dirent *name; (name = readdir(names));)
    CHECK(strncmp(name->d_name, "link_remap", 10), "a helping name is left: %s", name->d_name);
  closedir(names);

  is_at(before, path_of("file"));
  CHECK(pread(before, some, 20, 0) == 11, "the file from before");
  sprintf(path, "/proc/self/fdinfo/%d", before);
  char line[64], own[64];
  line_of(path, "mnt_id:", line, sizeof line);
  int fresh = MUST(open(path_of("file"), O_RDONLY));
  sprintf(path, "/proc/self/fdinfo/%d", fresh);
  line_of(path, "mnt_id:", own, sizeof own);
  CHECK(strcmp(line, own), "the file from before is reached through a mount of the namespace");
  sprintf(path, "%s/bind", place), is_at(bound, path);
  CHECK(open(path, O_RDWR | O_TMPFILE, 0600) < 0 && errno == EROFS, "the bind can be written: %m");
  sprintf(path, "%s/bound file", place), has(path, "outer file\n"), is_at(bound_file, path);
  sprintf(path, "%s/sysfs", place), CHECK(type_at(path) == 0x62656572, "sysfs");
  sprintf(path, "%s/mqueue", place), CHECK(type_at(path) == 0x19800202, "mqueue");
  sprintf(path, "%s/devpts/ptmx", place), MUST(stat(path, &is)), CHECK(is.st_rdev == makedev(5, 2), "devpts");
  child_passed(covered), child_passed(joined);
  here("checked"), child_passed(nested);
  has("text", "changed\n");
  CHECK(access("inner", F_OK) < 0, "the inner tmpfs is seen outside of it");
  sprintf(path, "%s/bound file", place), close(bound_file), MUST(umount(path)), has(path, "under the mount\n");
  child_passed(outside);
  return pass();
}
