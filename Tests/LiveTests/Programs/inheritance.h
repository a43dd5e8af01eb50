// A parent and its child have descriptions of one file in common, under other numbers, and each has some more of its own. What is moved by
// one is moved for the other, and nothing else is.
#pragma once
#include "check.h"

enum { SHARED = 200, ELSEWHERE = 2000 };

static inline int inherit(char **argv, int of_parent, int of_child, int nothing_else) {
  begin(argv);
  struct rlimit limit = {8192, 8192};
  MUST(setrlimit(RLIMIT_NOFILE, &limit));
  for (int fd = 0; fd < 3 && nothing_else; fd++) close(fd);
  int own[SHARED + of_parent];
  for (int i = 0; i < SHARED + of_parent; i++) own[i] = MUST(open("/etc/hostname", O_RDONLY));
  pid_t child = MUST(fork());
  if (child == 0) {
    for (int i = 0; i < SHARED; i++) MUST(dup2(own[i], ELSEWHERE + i));
    for (int i = 0; i < SHARED + of_parent; i++) close(own[i]);
    for (int i = 0; i < of_child; i++) MUST(dup2(MUST(open("/etc/passwd", O_RDONLY)), 2 * ELSEWHERE + i));
    child_cycle("child");
    await("moved");
    for (int i = 0; i < SHARED; i++) {
      long at = lseek(ELSEWHERE + i, 0, SEEK_CUR);
      CHECK(at == i + 1, "the child's descriptor %d is at %ld", ELSEWHERE + i, at);
    }
    _exit(0);
  }
  await("child");
  cycle();
  for (int i = 0; i < SHARED + of_parent; i++) MUST(lseek(own[i], i + 1, SEEK_SET));
  for (int i = 0; i < SHARED + of_parent; i++) CHECK(lseek(own[i], 0, SEEK_CUR) == i + 1, "descriptor %d", own[i]);
  here("moved");
  child_passed(child);
  return pass();
}
