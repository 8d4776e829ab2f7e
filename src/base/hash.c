/* SPDX-License-Identifier: MIT */
#include "src/base/hash.h"

#define XXH_STATIC_LINKING_ONLY /* XXH3_state_t as a complete type */
#include <xxhash.h>

#include "src/base/mem.h"

struct fg_hasher {
    XXH3_state_t state; /* needs 64-byte alignment, which fg_mem_alloc gives */
};

uint64_t fg_hash64(const void *data, size_t n)
{
    return XXH3_64bits(data, n);
}

fg_hasher *fg_hasher_create(void)
{
    fg_hasher *h = fg_mem_zalloc(sizeof *h);
    if (h != NULL) fg_hasher_reset(h);
    return h;
}

void fg_hasher_destroy(fg_hasher *h)
{
    fg_mem_free(h);
}

void fg_hasher_reset(fg_hasher *h)
{
    (void)XXH3_64bits_reset(&h->state);
}

void fg_hasher_add(fg_hasher *h, const void *data, size_t n)
{
    (void)XXH3_64bits_update(&h->state, data, n);
}

void fg_hasher_copy(fg_hasher *to, const fg_hasher *from)
{
    XXH3_copyState(&to->state, &from->state);
}

uint64_t fg_hasher_digest(const fg_hasher *h)
{
    return XXH3_64bits_digest(&h->state);
}
