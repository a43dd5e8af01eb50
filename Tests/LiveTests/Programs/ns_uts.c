// Three UTS namespaces: the root's own, one made below it, and one that was joined from outside by setns. The machine keeps its
// names.
#include "check.h"
#include <sys/utsname.h>

static void named(const char *host, const char *domain) {
  struct utsname names;
  MUST(uname(&names));
  CHECK(!strcmp(names.nodename, host), "the host is %s, not %s", names.nodename, host);
  CHECK(!strcmp(names.domainname, domain), "the domain is %s, not %s", names.domainname, domain);
}

static void call_it(const char *host, const char *domain) {
  MUST(sethostname(host, strlen(host))), MUST(setdomainname(domain, strlen(domain)));
}

static long inode(const char *path) {
  struct stat st;
  MUST(stat(path, &st));
  return st.st_ino;
}

int main(int argc, char **argv) {
  begin(argv);
  struct utsname machine;
  MUST(uname(&machine));
  pid_t outside = MUST(fork());  // Stays where the tool is.
  if (outside == 0) {
    child_cycle("outside");
    named(machine.nodename, machine.domainname);
    _exit(0);
  }
  int home = MUST(open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC));
  MUST(unshare(CLONE_NEWUTS)), call_it("outer", "outer.domain");
  char name[64];
  pid_t inner = MUST(fork());
  if (inner == 0) {
    close(home);
    memset(name, 'x', 64);
    MUST(unshare(CLONE_NEWUTS)), MUST(sethostname(name, 64)), MUST(setdomainname("", 0));
    pid_t child = MUST(fork());
    if (child == 0) {
      child_cycle("grandchild");
      struct utsname names;
      MUST(uname(&names));
      CHECK(!memcmp(names.nodename, name, 64), "the host is %s", names.nodename);
      CHECK(names.domainname[0] == 0, "the domain is %s", names.domainname);
      sprintf(name, "/proc/%d/ns/uts", getppid());
      CHECK(inode(name) == inode("/proc/self/ns/uts"), "not its parent's namespace");
      MUST(sethostname("changed", 7));
      _exit(0);
    }
    child_cycle("inner");
    child_passed(child);
    named("changed", ""), await("compared");
    _exit(0);
  }
  await("outside"), await("inner"), await("grandchild");
  pid_t back = MUST(fork());  // Its parent lives elsewhere.
  if (back == 0) {
    MUST(setns(home, CLONE_NEWUTS)), close(home);
    child_cycle("back");
    named(machine.nodename, machine.domainname);
    _exit(0);
  }
  pid_t joined = MUST(fork());
  if (joined == 0) {
    close(home);
    sprintf(name, "/proc/%d/ns/uts", inner);
    int there = MUST(open(name, O_RDONLY | O_CLOEXEC));
    MUST(setns(there, CLONE_NEWUTS)), close(there);
    child_cycle("joined");
    CHECK(inode(name) == inode("/proc/self/ns/uts"), "not the namespace that it joined");
    here("compared");
    _exit(0);
  }
  close(home), await("back"), await("joined");
  cycle();
  named("outer", "outer.domain");
  child_passed(outside), child_passed(back), child_passed(joined), child_passed(inner);
  return pass();
}
