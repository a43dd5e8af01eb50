// The mounts that a task sees: places, file systems and flags, without what may change, IDs, device numbers and the order.
#pragma once
#include "proc.h"

struct mounts {
  int count;
  char lines[200][400];
};

static inline int compare_lines(const void *a, const void *b) { return strcmp(a, b); }

static inline void read_mounts(struct mounts *mounts) {
  static char text[1 << 16];
  slurp("/proc/self/mountinfo", text, sizeof text);
  mounts->count = 0;
  for (char *line = strtok(text, "\n"); line; line = strtok(0, "\n")) {
    for (int i = 0; i < 3; i++) line = strchr(line, ' ') + 1;
    CHECK(mounts->count < 200, "too many mounts");
    snprintf(mounts->lines[mounts->count++], 400, "%s", line);
  }
  qsort(mounts->lines, mounts->count, 400, compare_lines);
}

static inline void same_mounts(struct mounts *before, struct mounts *after) {
  for (int i = 0; i < before->count || i < after->count; i++) {
    CHECK(i < after->count, "gone: %s", before->lines[i]);
    CHECK(i < before->count, "new: %s", after->lines[i]);
    CHECK(!strcmp(before->lines[i], after->lines[i]), "%s became %s", before->lines[i], after->lines[i]);
  }
}
