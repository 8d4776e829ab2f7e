/* SPDX-License-Identifier: MIT
 *
 * The text of seal.h as a writer makes it, of a directory as it is in memory.  Private to this
 * folder and write/.
 */
#ifndef FG_SRC_FORMAT_SEAL_TEXT_H
#define FG_SRC_FORMAT_SEAL_TEXT_H

#include <stdint.h>

#include "src/format/layout.h"

/* Its length, which shape, keys and the number of chunks determine. */
uint64_t fg_seal_text_bytes(const fg_directory *d, uint64_t n_chunk);

/* meta: SHA-256 of the blobs, 32 n_meta bytes in the order of the keys, those left out unused;
 * chunk: 32 n_chunk bytes, NULL: the text ends before its chunks.  False when out of memory. */
bool fg_seal_text_print(fg_buf *b, const fg_directory *d, const fg_slot *slot, uint64_t generation,
                        const uint8_t *meta, const uint8_t *chunk);

/* The hashes of a text's last n_chunk lines; false when it has no such end. */
bool fg_seal_text_chunks(const char *text, size_t n, uint64_t n_chunk, uint8_t *chunk);

#endif
