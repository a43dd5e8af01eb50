// Children that died before the dump and were not waited for: their status is still there, in every way to ask.
#include "check.h"

int main(int argc, char **argv) {
  begin(argv);
  pid_t exited = MUST(fork());
  if (exited == 0) prctl(PR_SET_NAME, "zombie"), _exit(7);
  pid_t killed = MUST(fork());
  if (killed == 0) pause(), _exit(0);
  kill(killed, SIGTERM);
  pid_t grouped = MUST(fork());
  if (grouped == 0) setpgid(0, 0), _exit(0);
  pid_t middle = MUST(fork());  // A living child with a zombie of its own, that is a session leader.
  if (middle == 0) {
    pid_t own = MUST(fork());
    if (own == 0) setsid(), _exit(200);
    siginfo_t info;
    MUST(waitid(P_PID, own, &info, WEXITED | WNOWAIT));
    child_cycle("middle");
    int status;
    CHECK(waitpid(own, &status, WNOHANG) == own && WIFEXITED(status) && WEXITSTATUS(status) == 200, "status %#x", status);
    _exit(0);
  }
  await("middle");
  siginfo_t info;
  for (int i = 0; i < 3; i++) MUST(waitid(P_PID, (pid_t[]){exited, killed, grouped}[i], &info, WEXITED | WNOWAIT));
  cycle();
  char path[64], text[256] = "";
  snprintf(path, sizeof path, "/proc/%d/stat", exited);
  int fd = MUST(open(path, O_RDONLY)), status = -1;
  MUST(read(fd, text, 255)), close(fd);
  CHECK(strstr(text, ") Z "), "%s", text);
  CHECK(strstr(text, "(zombie)"), "its name is lost: %s", text);
  MUST(waitid(P_PID, exited, &info, WEXITED | WNOWAIT | WNOHANG));
  CHECK(info.si_pid == exited && info.si_code == CLD_EXITED && info.si_status == 7, "%d %d", info.si_code, info.si_status);
  CHECK(waitpid(exited, &status, WNOHANG) == exited && WIFEXITED(status) && WEXITSTATUS(status) == 7, "status %#x", status);
  MUST(waitid(P_PID, killed, &info, WEXITED | WNOHANG));
  CHECK(info.si_pid == killed && info.si_code == CLD_KILLED && info.si_status == SIGTERM, "%d %d", info.si_code, info.si_status);
  CHECK(waitpid(-grouped, &status, WNOHANG) == grouped && status == 0, "status %#x", status);
  child_passed(middle);
  CHECK(waitpid(-1, &status, WNOHANG) == -1 && errno == ECHILD, "there are more children");
  return pass();
}
