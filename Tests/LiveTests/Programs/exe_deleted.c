// A program whose file was deleted, or replaced by a newer one, while it runs: /proc/PID/exe is still the old file, and can be run again.
#include "check.h"

static void copy(const char *from, const char *to) {
  char buffer[65536];
  int in = MUST(open(from, O_RDONLY | O_CLOEXEC)), out = MUST(open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755));
  for (ssize_t n; (n = MUST(read(in, buffer, sizeof buffer))) > 0;) MUST(write(out, buffer, n));
  close(in), close(out);
}

static pid_t run(const char *name, char **argv) {
  copy("/proc/self/exe", path_of(name));
  pid_t child = MUST(fork());
  if (child == 0) {
    execl(path_of(name), argv[0], argv[1], name, NULL);
    _exit(9);
  }
  await(strcmp(name, "gone") == 0 ? "gone_runs" : "replaced_runs");
  MUST(unlink(path_of(name)));
  return child;
}

static void child(const char *name) {
  char expected[700], link[700] = "";
  snprintf(expected, sizeof expected, "%s (deleted)", path_of(name));
  here(strcmp(name, "gone") == 0 ? "gone_runs" : "replaced_runs");
  await("check");
  MUST(readlink("/proc/self/exe", link, sizeof link - 1));
  // A name that another file has now is lost.
  const char *end = strcmp(name, "gone") == 0 ? strrchr(expected, '/') : " (deleted)";
  CHECK(strlen(link) >= strlen(end) && strcmp(link + strlen(link) - strlen(end), end) == 0, "%s, not %s", link, expected);
  struct stat st;
  MUST(stat("/proc/self/exe", &st));
  CHECK(st.st_nlink == 0 && (st.st_mode & 07777) == 0755, "%d links, mode %o", (int)st.st_nlink, st.st_mode);
  // Nobody may write to a program that runs.
  CHECK(open("/proc/self/exe", O_WRONLY) < 0 && errno == ETXTBSY, "%s", strerror(errno));
  pid_t again = MUST(fork());
  if (again == 0) {
    execl("/proc/self/exe", "again", "again", NULL);
    _exit(9);
  }
  int status;
  MUST(waitpid(again, &status, 0));
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42, "run again it ends with %#x", status);
  _exit(0);
}

int main(int argc, char **argv) {
  if (strcmp(argv[1], "again") == 0) return 42;
  begin(argv);
  if (argc > 2) child(argv[2]);
  pid_t gone = run("gone", argv), replaced = run("replaced", argv);
  copy("/bin/sleep", path_of("replaced"));
  cycle();
  child_passed(gone), child_passed(replaced);
  CHECK(access(path_of("gone"), F_OK) < 0, "the file is there again");
  struct stat now, sleeps;
  MUST(stat(path_of("replaced"), &now)), MUST(stat("/bin/sleep", &sleeps));
  CHECK(now.st_size == sleeps.st_size, "the newer file is not there any more");
  return pass();
}
