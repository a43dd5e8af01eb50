#define XXH_INLINE_ALL
#include <xxhash.h>

#include "CXXHash.h"

uint64_t cxx_hash(const void *bytes, size_t count) { return XXH3_64bits(bytes, count); }

cxx_state *cxx_start(void)
{
	XXH3_state_t *state = XXH3_createState();
	if (state)
		XXH3_64bits_reset(state);
	return (cxx_state *)state;
}

void cxx_add(cxx_state *state, const void *bytes, size_t count)
{
	XXH3_64bits_update((XXH3_state_t *)state, bytes, count);
}

uint64_t cxx_value(const cxx_state *state) { return XXH3_64bits_digest((const XXH3_state_t *)state); }

void cxx_end(cxx_state *state) { XXH3_freeState((XXH3_state_t *)state); }
