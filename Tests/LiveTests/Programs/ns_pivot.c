// A root of its own, as containers have it: a tmpfs with binds of some directories, entered by pivot_root, with nothing of the
// machine's other mounts left; a task in a chroot inside; one that stayed outside with its root.
#include "check.h"
#include "mounts.h"
#include <libgen.h>
#include <sys/mount.h>

static void bind_below(const char *root, const char *directory) {
  char path[1200], part[1200];
  snprintf(path, sizeof path, "%s%s", root, directory);
  for (char *slash = strchr(path + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    snprintf(part, sizeof part, "%.*s", (int)(slash - path), path);
    mkdir(part, 0755);
  }
  mkdir(path, 0755);
  MUST(mount(directory, path, 0, MS_BIND, 0));
}

static struct mounts before, after;

int main(int argc, char **argv) {
  begin(argv);
  char root[600], copy[512], text[64];
  if (base[0] != '/') {
    char here[256];
    MUST(getcwd(here, sizeof here));
    snprintf(copy, sizeof copy, "%s/%s", here, base), strcpy(base, copy);
  }
  snprintf(root, sizeof root, "%s.root", base);
  MUST(mkdir(root, 0755));
  strcpy(copy, base);
  const char *folder = dirname(copy);
  pid_t outside = MUST(fork());
  if (outside == 0) {
    child_cycle("outside");
    CHECK(access("/usr/bin/env", F_OK) == 0, "the machine is not what it was");
    CHECK(access(path_of("root/mine"), F_OK) < 0, "the tmpfs is seen outside");
    _exit(0);
  }
  MUST(unshare(CLONE_NEWNS));
  MUST(mount("none", "/", 0, MS_REC | MS_PRIVATE, 0));
  MUST(mount("root", root, "tmpfs", 0, "size=4m"));
  bind_below(root, folder), bind_below(root, "/proc"), bind_below(root, "/dev");
  MUST(chdir(root));
  int fd = MUST(open("mine", O_RDWR | O_CREAT, 0600));
  MUST(write(fd, "mine", 4)), MUST(mkdir("jail", 0711)), MUST(mkdir("old", 0700));
  MUST(syscall(SYS_pivot_root, ".", "old"));
  MUST(chdir("/")), MUST(umount2("/old", MNT_DETACH)), MUST(chdir("/jail"));
  read_mounts(&before);
  pid_t jailed = MUST(fork());
  if (jailed == 0) {
    struct stat st, jail;
    MUST(stat("/jail", &jail));
    int log = MUST(open(folder, O_RDONLY | O_DIRECTORY));  // A way to tell, through what is out of reach otherwise.
    MUST(chroot("/jail")), MUST(chdir("/"));
    close(MUST(openat(log, "jailed", O_WRONLY | O_CREAT, 0600)));
    snprintf(text, sizeof text, "%s.check", basename(base));
    for (int i = 0; i < 6000 && fstatat(log, text, &st, 0) < 0; i++) usleep(10000);
    MUST(stat("/", &st));
    if ((st.st_mode & 0777) != 0711 || access("/mine", F_OK) == 0) _exit(3);
    _exit(mkdir("/made", 0755) == 0 ? 0 : 4);
  }
  char name[700];
  snprintf(name, sizeof name, "%s/jailed", folder);
  for (int i = 0; i < 2000 && access(name, F_OK) < 0; i++) usleep(10000);
  await("outside");
  cycle();
  read_mounts(&after);
  same_mounts(&before, &after);
  CHECK(!strcmp(getcwd(name, sizeof name), "/jail"), "it is in %s", name);
  CHECK(access("/usr/bin/env", F_OK) < 0, "the machine's root is seen");
  CHECK(pread(fd, text, 8, 0) == 4 && !memcmp(text, "mine", 4), "the file in the root");
  CHECK(access("/mine", F_OK) == 0 && access("/old", F_OK) == 0, "the root's entries");
  child_passed(jailed), child_passed(outside);
  CHECK(access("/jail/made", F_OK) == 0, "the chroot is elsewhere");
  return pass();
}
