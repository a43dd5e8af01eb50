// Registrations for membarrier: the same set, and the commands still work.
#include "check.h"
#include <linux/membarrier.h>
#ifndef MEMBARRIER_CMD_GET_REGISTRATIONS
#define MEMBARRIER_CMD_GET_REGISTRATIONS (1 << 9)
#endif

static long membarrier(int command) { return syscall(SYS_membarrier, command, 0, 0); }

int main(int argc, char **argv) {
  begin(argv);
  int supported = MUST(membarrier(MEMBARRIER_CMD_QUERY));
  if (!(supported & MEMBARRIER_CMD_GET_REGISTRATIONS)) skip("this kernel does not tell registrations");
  MUST(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)), MUST(membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED));
  MUST(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE));
  long before = MUST(membarrier(MEMBARRIER_CMD_GET_REGISTRATIONS));
  cycle();
  long after = MUST(membarrier(MEMBARRIER_CMD_GET_REGISTRATIONS));
  CHECK(before == after, "%#lx is now %#lx", before, after);
  MUST(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED)), MUST(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE));
  CHECK(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ) == -1, "it is registered for more than before");
  return pass();
}
