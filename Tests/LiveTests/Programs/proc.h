// What /proc says about this task, in static buffers: a look must not change the heap or the mappings.
#pragma once
#include "check.h"

// A small file's text; 0-terminated. The buffer is the caller's.
static inline size_t slurp(const char *path, char *buffer, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0, "%s: %s", path, strerror(errno));
  size_t used = 0;
  for (ssize_t n; used < size - 1 && (n = read(fd, buffer + used, size - 1 - used)) > 0;) used += n;
  close(fd);
  buffer[used] = 0;
  return used;
}

// The line of a file like /proc/self/status that starts with `key`, without the newline; "" where there is none.
static inline void __attribute__((unused)) line_of(const char *path, const char *key, char *out, size_t size) {
  static __thread char text[16384];
  slurp(path, text, sizeof text);
  *out = 0;
  for (char *line = text; line && *line; line = strchr(line, '\n'), line = line ? line + 1 : 0)
    if (strncmp(line, key, strlen(key)) == 0) {
      snprintf(out, size, "%.*s", (int)strcspn(line, "\n"), line);
      return;
    }
}

struct vma {
  unsigned long start, end, offset;
  char perms[5], name[200], flags[120];
  long rss, pss, private_dirty, shared_dirty, anonymous, locked, huge;  // kB
};

struct layout {
  int count;
  struct vma vmas[200];
};

static inline void read_layout(struct layout *layout, const char *path) {
  static char text[1 << 18];
  slurp(path, text, sizeof text);
  layout->count = 0;
  struct vma *v = 0;
  for (char *line = text; *line;) {
    char *end = strchrnul(line, '\n'), last = *end;
    *end = 0;
    unsigned long a, b, offset;
    char perms[5];
    int at = 0;
    long kb;
    if (sscanf(line, "%lx-%lx %4s %lx %*s %*s %n", &a, &b, perms, &offset, &at) == 4) {
      CHECK(layout->count < 200, "too many mappings");
      v = &layout->vmas[layout->count++];
      memset(v, 0, sizeof *v);
      v->start = a, v->end = b, v->offset = offset;
      strcpy(v->perms, perms);
      if (at) snprintf(v->name, sizeof v->name, "%s", line + at);
    } else if (v && sscanf(line, "Rss: %ld", &kb) == 1) v->rss = kb;
    else if (v && sscanf(line, "Pss: %ld", &kb) == 1) v->pss = kb;
    else if (v && sscanf(line, "Private_Dirty: %ld", &kb) == 1) v->private_dirty = kb;
    else if (v && sscanf(line, "Shared_Dirty: %ld", &kb) == 1) v->shared_dirty = kb;
    else if (v && sscanf(line, "Anonymous: %ld", &kb) == 1) v->anonymous = kb;
    else if (v && sscanf(line, "Locked: %ld", &kb) == 1) v->locked = kb;
    else if (v && sscanf(line, "AnonHugePages: %ld", &kb) == 1) v->huge = kb;
    else if (v && strncmp(line, "VmFlags: ", 9) == 0) snprintf(v->flags, sizeof v->flags, "%s", line + 9);
    line = last ? end + 1 : end;
  }
}

// The kernel may merge neighbours of one kind in one layout and not in the other; that difference means nothing.
static inline void merge_neighbours(struct layout *layout) {
  int used = 0;
  for (int i = 1; i < layout->count; i++) {
    struct vma *a = &layout->vmas[used], *b = &layout->vmas[i];
    int file = a->name[0] == '/';
    if (a->end == b->start && !strcmp(a->perms, b->perms) && !strcmp(a->name, b->name) && !strcmp(a->flags, b->flags) &&
        (!file || a->offset + (a->end - a->start) == b->offset)) {
      a->end = b->end, a->rss += b->rss, a->pss += b->pss, a->private_dirty += b->private_dirty;
      a->shared_dirty += b->shared_dirty, a->anonymous += b->anonymous, a->locked += b->locked, a->huge += b->huge;
    } else layout->vmas[++used] = *b;
  }
  if (layout->count) layout->count = used + 1;
}

static inline struct vma *__attribute__((unused)) vma_at(struct layout *layout, const void *address) {
  for (int i = 0; i < layout->count; i++)
    if (layout->vmas[i].start <= (unsigned long)address && (unsigned long)address < layout->vmas[i].end) return &layout->vmas[i];
  fail(__FILE__, __LINE__, "nothing is mapped at %p", address);
}

// "ac" (accounted) says that a private mapping was writable once, "gu" that it had a guard once; nobody but the kernel's bookkeeping
// can tell.
static inline void drop_accounting(char *flags) {
  const char *past[] = {"ac ", "gu "};
  for (int i = 0; i < 2; i++) {
    char *at = strstr(flags, past[i]);
    if (at) memmove(at, at + 3, strlen(at + 3) + 1);
  }
}

// Shared anonymous memory may come back as a memfd of the same name.
static inline const char *plain_name(struct vma *v) {
  return !strncmp(v->name, "/memfd:/dev/zero", 16) || !strncmp(v->name, "/memfd:/anon_hugepage", 21) ? v->name + 7 : v->name;
}

// Addresses, permissions, names, offsets and VmFlags of the whole address space must be what they were.
static inline void __attribute__((unused)) same_layout(struct layout *before, struct layout *after) {
  for (int i = 0; i < before->count; i++) drop_accounting(before->vmas[i].flags);
  for (int i = 0; i < after->count; i++) drop_accounting(after->vmas[i].flags);
  merge_neighbours(before), merge_neighbours(after);
  for (int i = 0; i < before->count || i < after->count; i++) {
    CHECK(i < after->count, "gone: %lx-%lx %s", before->vmas[i].start, before->vmas[i].end, before->vmas[i].name);
    CHECK(i < before->count, "new: %lx-%lx %s", after->vmas[i].start, after->vmas[i].end, after->vmas[i].name);
    struct vma *b = &before->vmas[i], *a = &after->vmas[i];
    CHECK(a->start == b->start && a->end == b->end && !strcmp(a->perms, b->perms) && !strcmp(plain_name(a), plain_name(b)),
          "%lx-%lx %s %s became %lx-%lx %s %s", b->start, b->end, b->perms, b->name, a->start, a->end, a->perms, a->name);
    CHECK(a->name[0] != '/' || a->offset == b->offset, "%s: offset %#lx became %#lx", a->name, b->offset, a->offset);
    CHECK(!strcmp(a->flags, b->flags), "%lx %s: flags \"%s\" became \"%s\"", a->start, a->name, b->flags, a->flags);
  }
}
