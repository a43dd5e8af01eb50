// Files of the tree's own processes in /proc, and other files of /proc and /sys, are there and tell of the same.
#include "check.h"

static void expect(int fd, const char *text, const char *what) {
  char buffer[4096] = "";
  ssize_t n = pread(fd, buffer, sizeof buffer - 1, 0);
  CHECK(n > 0, "%s: %s", what, strerror(errno));
  CHECK(strstr(buffer, text), "%s: '%s' is not in '%.200s'", what, text, buffer);
}

int main(int argc, char **argv) {
  begin(argv);
  pid_t child = MUST(fork());
  if (!child) MUST(chdir("/proc/self")), child_cycle("child"), MUST(access("status", R_OK)), _exit(0);
  await("child");
  char name[64], text[64], path[300];
  int own = MUST(open("/proc/self/status", O_RDONLY)), maps = MUST(open("/proc/self/maps", O_RDONLY));
  int task = MUST(open("/proc/self/task", O_RDONLY | O_DIRECTORY)), thread = MUST(open("/proc/thread-self/comm", O_RDWR));
  snprintf(name, sizeof name, "/proc/%d/stat", child);
  int theirs = MUST(open(name, O_RDONLY));
  int version = MUST(open("/proc/version", O_RDONLY)), max = MUST(open("/proc/sys/kernel/pid_max", O_RDONLY));
  int online = MUST(open("/sys/devices/system/cpu/online", O_RDONLY));
  MUST(read(own, text, 10));
  cycle();
  CHECK(lseek(own, 0, SEEK_CUR) == 10, "the offset is %ld", lseek(own, 0, SEEK_CUR));
  snprintf(text, sizeof text, "Pid:\t%d\n", getpid());
  expect(own, text, "own status");
  snprintf(text, sizeof text, "%d (", child);
  expect(theirs, text, "the child's stat");
  expect(thread, "proc_files", "comm");
  expect(version, "Linux version", "version");
  expect(max, "\n", "pid_max");
  expect(online, "0", "online CPUs");
  // The heap's first page is mapped where this file says, in the very memory of this process.
  lseek(maps, 0, SEEK_SET);
  FILE *lines = fdopen(maps, "r");
  unsigned long start, end;
  int found = 0;
  while (fgets(path, sizeof path, lines))
    found |= sscanf(path, "%lx-%lx", &start, &end) == 2 && (unsigned long)main >= start && (unsigned long)main < end;
  CHECK(found, "main is not in maps");
  snprintf(name, sizeof name, "%d/comm", getpid());
  int inside = openat(task, name, O_RDONLY);
  CHECK(inside >= 0, "%s in the folder of threads: %s", name, strerror(errno));
  child_passed(child);
  return pass();
}
