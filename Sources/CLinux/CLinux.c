#include "CLinux.h"
#include <unistd.h>

// Swift's runtime looks for the program's own file before anything of it runs, and aborts without a word of what to do where /proc does
// not lead there: in a PID namespace whose /proc is of another one, or where none is mounted.
__attribute__((constructor(101))) static void find_own_executable(void) {
  static const char message[] =
      "swift-restore: /proc/self/exe cannot be read: /proc is not mounted, or is that of another PID namespace\n"
      "  Mount the right one (mount -t proc proc /proc), or enter both namespaces (nsenter --pid --mount).\n";
  char path[1];
  if (readlink("/proc/self/exe", path, sizeof path) > 0) return;
  if (write(2, message, sizeof message - 1) < 0) _exit(2);
  _exit(1);
}
