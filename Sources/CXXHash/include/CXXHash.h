// XXH3 of 64 bits, from Debian's libxxhash-dev: its header is the whole library, so that nothing more has to be loaded at start.
#pragma once

#include <stddef.h>
#include <stdint.h>

/// The checksum of some bytes.
uint64_t cxx_hash(const void *bytes, size_t count);

/// The same in parts. `cxx_start` returns 0 when memory is short; `cxx_end` frees.
typedef struct cxx_state cxx_state;
cxx_state *cxx_start(void);
void cxx_add(cxx_state *state, const void *bytes, size_t count);
uint64_t cxx_value(const cxx_state *state);
void cxx_end(cxx_state *state);
