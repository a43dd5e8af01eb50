// Protection keys: the PKRU register, the keys of the mappings, and the set of keys in use.
#include "check.h"

int main(int argc, char **argv) {
  begin(argv);
  int first = pkey_alloc(0, 0);
  if (first < 0) skip("this machine has no protection keys");
  int second = MUST(pkey_alloc(0, PKEY_DISABLE_WRITE));
  char *page = MUST(mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  strcpy(page, "kept");
  MUST(pkey_mprotect(page, 4096, PROT_READ | PROT_WRITE, second));
  cycle();
  CHECK(pkey_get(first) == 0 && pkey_get(second) == PKEY_DISABLE_WRITE, "%d %d", pkey_get(first), pkey_get(second));
  CHECK(!strcmp(page, "kept"), "content is lost");
  CHECK(read(open("/dev/zero", O_RDONLY), page, 1) == -1 && errno == EFAULT, "the page's key is lost");
  MUST(pkey_free(second)), MUST(pkey_free(first));
  return pass();
}
