// User and group IDs, supplementary groups, the five capability sets, securebits, no_new_privs, dumpable: five tasks, five ways.
#include "proc.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>

static const char *keys[] = {"Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:"};

static void look(char out[11][300]) {
  for (int i = 0; i < 9; i++) line_of("/proc/self/status", keys[i], out[i], 300);
  sprintf(out[9], "securebits %#x", prctl(PR_GET_SECUREBITS));
  sprintf(out[10], "dumpable %d", prctl(PR_GET_DUMPABLE));
}
static void set_caps(uint64_t effective, uint64_t permitted, uint64_t inheritable) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {{effective, permitted, inheritable}, {effective >> 32, permitted >> 32, inheritable >> 32}};
  MUST(syscall(SYS_capset, &header, data));
}
static void become(int kind) {
  uint64_t some = 1ull << CAP_NET_ADMIN | 1ull << CAP_CHOWN | 1ull << CAP_SYS_TIME;
  switch (kind) {
    case 0:
      MUST(setgroups(3, (gid_t[]){5, 1000, 70000})), MUST(setresgid(11, 12, 13)), MUST(setresuid(1001, 1002, 1003));
      break;
    case 1:
      MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT)), MUST(prctl(PR_CAPBSET_DROP, CAP_MKNOD));
      set_caps(some, some, some), MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_ADMIN, 0, 0));
      break;
    case 2:
      MUST(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT | SECBIT_NOROOT_LOCKED));
      MUST(setgroups(0, 0)), MUST(setresgid(2000, 2000, 2000)), MUST(setresuid(2000, 2000, 2000));
      break;
    case 3:
      MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)), MUST(prctl(PR_SET_DUMPABLE, 0));
      break;
    case 4:
      MUST(setgroups(0, 0)), MUST(setresgid(3000, 3000, 3000)), MUST(setresuid(3000, 3000, 3000));
      MUST(prctl(PR_SET_DUMPABLE, 1));
      break;
  }
}

int main(int argc, char **argv) {
  begin(argv);
  pid_t pids[5];
  for (int kind = 0; kind < 5; kind++)
    if ((pids[kind] = MUST(fork())) == 0) {
      static char before[11][300], after[11][300];
      become(kind);
      look(before);
      child_cycle((char[]){'k', '0' + kind, 0});
      look(after);
      for (int i = 0; i < 11; i++) CHECK(!strcmp(before[i], after[i]), "task %d: \"%s\" is now \"%s\"", kind, before[i], after[i]);
      _exit(0);
    }
  for (int kind = 0; kind < 5; kind++) await((char[]){'k', '0' + kind, 0});
  cycle();
  for (int kind = 0; kind < 5; kind++) child_passed(pids[kind]);
  return pass();
}
