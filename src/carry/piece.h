/* SPDX-License-Identifier: MIT
 *
 * A piece: a header, and blocks of one file that follow one another in it.
 *
 *   magic[8]  89 46 47 43 41 52 59 0a (0x89 "FGCARY" newline)
 *   u32 version (1), u32 bytes of the header (a multiple of 4096)
 *   transfer id[16]
 *   u64 first block, u64 blocks of the whole transfer
 *   u32 blocks of this piece, u32 zero
 *   u64 bytes of these
 *   their SHA-256, 32 bytes each; SHA-256 of all before; zeros
 *
 * Little-endian.  All blocks but the last have FG_BLOCK_BYTES, so that a piece can be checked by
 * itself.  One may come from anybody.
 */
#ifndef FG_SRC_CARRY_PIECE_H
#define FG_SRC_CARRY_PIECE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/carry/carry_list.h"

enum {
    FG_PIECE_FIXED = 64, /* bytes before the hashes */
    FG_PIECE_ALIGN = 4096,
    FG_PIECE_MAX_BLOCK = 4095,
    FG_PIECE_MAX_HEADER = 136 << 10,
    FG_PIECE_NAME_CHARS = 40,
};

typedef struct fg_carry_piece {
    uint8_t id[FG_CARRY_ID_BYTES];
    uint64_t first, n_all;
    uint32_t n, header_bytes;
    uint64_t bytes;
    uint8_t sha[FG_PIECE_MAX_BLOCK][32];
} fg_carry_piece;

extern const uint8_t fg_piece_magic[8];

/* Bytes of the header of a piece of n blocks. */
uint32_t fg_piece_header_bytes(uint32_t n);
/* Bytes of block i of it. */
uint64_t fg_piece_block_bytes(const fg_carry_piece *p, uint32_t i);

/* out: p->header_bytes, at least fg_piece_header_bytes(p->n).  False when out of memory. */
bool fg_piece_encode(const fg_carry_piece *p, uint8_t *out);
/* *need: bytes that must be there to say more, 0: all were.  FG_EFORMAT (no piece), FG_EVERSION,
 * FG_ECHECKSUM. */
fg_status fg_piece_decode(fg_carry_piece *p, const uint8_t *bytes, size_t n, size_t *need,
                          const char *name, fg_err *err);
/* Whether it is of this transfer, and its blocks are blocks of one file there.  FG_EFORMAT. */
fg_status fg_piece_fits(const fg_carry_piece *p, const fg_carry_list *l, const char *name,
                        const char *whose, fg_err *err);

/* "carry-ID-FIRST-COUNT.piece"; false for any other name. */
void fg_piece_name(const fg_carry_piece *p, char *out);
bool fg_piece_parse_name(const char *name, uint64_t *first, uint32_t *n);

#endif
