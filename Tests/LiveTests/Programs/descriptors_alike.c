// Of many descriptors of one file those that name one description still share its offset, and the others do not.
#include "check.h"

enum { FILES = 150 };

int main(int argc, char **argv) {
  begin(argv);
  int own[FILES], other[FILES];
  for (int i = 0; i < FILES; i++) own[i] = MUST(open("/etc/passwd", O_RDONLY | (i % 3 ? 0 : O_CLOEXEC)));
  for (int i = 0; i < FILES; i++) other[i] = i % 2 ? MUST(dup(own[FILES - 1 - i])) : MUST(open("/etc/passwd", O_RDONLY));
  cycle();
  for (int i = 0; i < FILES; i++) MUST(lseek(own[i], i + 1, SEEK_SET));
  for (int i = 0; i < FILES; i++) {
    long at = MUST(lseek(other[i], 0, SEEK_CUR));
    CHECK(at == (i % 2 ? FILES - i : 0), "descriptor %d is at %ld", other[i], at);
    CHECK((fcntl(own[i], F_GETFD) == FD_CLOEXEC) == (i % 3 == 0), "descriptor %d closes on exec, or not any more", own[i]);
    CHECK(fcntl(other[i], F_GETFD) == 0, "descriptor %d closes on exec", other[i]);
  }
  return pass();
}
