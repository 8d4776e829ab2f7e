/* SPDX-License-Identifier: MIT
 *
 * XXH3-64 (seed 0), the only hash of the file format; xxhash.h is included in hash.c alone.
 * Guards against damage, not against an adversary.
 */
#ifndef FG_SRC_BASE_HASH_H
#define FG_SRC_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t fg_hash64(const void *data, size_t n);

/* Streaming form; the digest equals fg_hash64 of the concatenated input. */
typedef struct fg_hasher fg_hasher;
fg_hasher *fg_hasher_create(void); /* NULL when out of memory */
void fg_hasher_destroy(fg_hasher *h);
void fg_hasher_reset(fg_hasher *h);
void fg_hasher_add(fg_hasher *h, const void *data, size_t n);
void fg_hasher_copy(fg_hasher *to, const fg_hasher *from);
uint64_t fg_hasher_digest(const fg_hasher *h);

#endif
