// Pipes in packet mode: every packet by itself; the mode may have been switched on later.
#include "check.h"

int main(int argc, char **argv) {
  begin(argv);
  static char content[5000], now[8192];
  fill(content, sizeof content, 1);
  int packets[2], late[2];
  MUST(pipe2(packets, O_DIRECT | O_CLOEXEC)), MUST(pipe(late));
  for (int i = 1; i <= 4; i++) MUST(write(packets[1], content + i, i * 1000));
  MUST(fcntl(late[1], F_SETFL, O_DIRECT));
  MUST(write(late[1], "one", 3)), MUST(write(late[1], "two", 3));
  cycle();
  CHECK(fcntl(packets[1], F_GETFL) & O_DIRECT && fcntl(packets[0], F_GETFD) == FD_CLOEXEC, "flags");
  for (int i = 1; i <= 4; i++) {
    int got = read(packets[0], now, sizeof now);
    CHECK(got == i * 1000 && !memcmp(now, content + i, got), "packet %d has %d bytes", i, got);
  }
  MUST(write(packets[1], "new", 3)), MUST(write(packets[1], "er", 2));
  CHECK(read(packets[0], now, 100) == 3 && read(packets[0], now, 100) == 2, "new packets");
  CHECK(read(late[0], now, 100) == 3 && !memcmp(now, "one", 3) && read(late[0], now, 100) == 3 && !memcmp(now, "two", 3), "late packets");
  return pass();
}
