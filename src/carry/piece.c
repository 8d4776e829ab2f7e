/* SPDX-License-Identifier: MIT */
#include "src/carry/piece.h"

#include <stdio.h>
#include <ctype.h>
#include <string.h>

#include "src/base/crypto.h"

typedef unsigned long long ull; /* for %llu */

const uint8_t fg_piece_magic[8] = {0x89, 'F', 'G', 'C', 'A', 'R', 'Y', '\n'};

enum { VERSION = 1 };

uint32_t fg_piece_header_bytes(uint32_t n)
{
    const uint32_t used = FG_PIECE_FIXED + FG_SHA256_BYTES * (n + 1);
    return (used + FG_PIECE_ALIGN - 1) / FG_PIECE_ALIGN * FG_PIECE_ALIGN;
}

uint64_t fg_piece_block_bytes(const fg_carry_piece *p, uint32_t i)
{
    return i + 1 < p->n ? FG_BLOCK_BYTES : p->bytes - (uint64_t)i * FG_BLOCK_BYTES;
}

static void put_le(uint8_t *p, size_t n, uint64_t v)
{
    for (size_t i = 0; i < n; i++) p[i] = (uint8_t)(v >> (8 * i));
}

bool fg_piece_encode(const fg_carry_piece *p, uint8_t *out)
{
    const size_t hashes = (size_t)FG_SHA256_BYTES * p->n;
    memset(out, 0, p->header_bytes);
    memcpy(out, fg_piece_magic, sizeof fg_piece_magic);
    put_le(out + 8, 4, VERSION);
    put_le(out + 12, 4, p->header_bytes);
    memcpy(out + 16, p->id, sizeof p->id);
    put_le(out + 32, 8, p->first);
    put_le(out + 40, 8, p->n_all);
    put_le(out + 48, 4, p->n);
    put_le(out + 56, 8, p->bytes);
    memcpy(out + FG_PIECE_FIXED, p->sha, hashes);
    return fg_sha256(out, FG_PIECE_FIXED + hashes, out + FG_PIECE_FIXED + hashes);
}

static bool is_whole(const fg_carry_piece *p, uint32_t zero)
{
    const uint64_t most = (uint64_t)p->n * FG_BLOCK_BYTES;
    return zero == 0 && p->n >= 1 && p->n <= FG_PIECE_MAX_BLOCK &&
           p->header_bytes % FG_PIECE_ALIGN == 0 && p->header_bytes <= FG_PIECE_MAX_HEADER &&
           p->header_bytes >= fg_piece_header_bytes(p->n) && p->n_all <= FG_CARRY_MAX_BLOCK &&
           p->first < p->n_all && p->n <= p->n_all - p->first && p->bytes <= most &&
           p->bytes > most - FG_BLOCK_BYTES;
}

fg_status fg_piece_decode(fg_carry_piece *p, const uint8_t *bytes, size_t n, size_t *need,
                          const char *name, fg_err *err)
{
    uint8_t sha[FG_SHA256_BYTES];
    *need = FG_PIECE_FIXED;
    if (n < FG_PIECE_FIXED || memcmp(bytes, fg_piece_magic, sizeof fg_piece_magic) != 0) {
        if (n >= sizeof fg_piece_magic) *need = n < FG_PIECE_FIXED ? *need : 0;
        return fg_fail(err, FG_EFORMAT, "%s: expected a piece of fulgur carry", name);
    }
    fg_cursor c = fg_cursor_make(bytes + 8, FG_PIECE_FIXED - 8);
    const uint32_t version = fg_cursor_u32(&c);
    p->header_bytes = fg_cursor_u32(&c);
    memcpy(p->id, fg_cursor_bytes(&c, sizeof p->id), sizeof p->id);
    p->first = fg_cursor_u64(&c);
    p->n_all = fg_cursor_u64(&c);
    p->n = fg_cursor_u32(&c);
    const uint32_t zero = fg_cursor_u32(&c);
    p->bytes = fg_cursor_u64(&c);
    *need = 0;
    if (version != VERSION) {
        return fg_fail(err, FG_EVERSION, "%s: piece of version %u, expected %d", name, version,
                       VERSION);
    }
    if (!is_whole(p, zero)) {
        return fg_fail(err, FG_EFORMAT, "%s: piece of %u blocks, %llu bytes, expected such as fit",
                       name, p->n, (ull)p->bytes);
    }
    const size_t hashes = (size_t)FG_SHA256_BYTES * p->n;
    *need = FG_PIECE_FIXED + hashes + FG_SHA256_BYTES;
    if (n < *need) return fg_fail(err, FG_EFORMAT, "%s: ends in the header, expected all", name);
    *need = 0;
    if (!fg_sha256(bytes, FG_PIECE_FIXED + hashes, sha)) return fg_fail_nomem(err, name);
    if (memcmp(sha, bytes + FG_PIECE_FIXED + hashes, sizeof sha) != 0) {
        return fg_fail(err, FG_ECHECKSUM, "%s: damaged header, expected the SHA-256 that it has",
                       name);
    }
    memcpy(p->sha, bytes + FG_PIECE_FIXED, hashes);
    return FG_OK;
}

fg_status fg_piece_fits(const fg_carry_piece *p, const fg_carry_list *l, const char *name,
                        const char *whose, fg_err *err)
{
    char a[FG_CARRY_ID_CHARS], b[FG_CARRY_ID_CHARS];
    fg_hex(p->id, sizeof p->id, a);
    fg_hex(l->id, sizeof l->id, b);
    if (memcmp(p->id, l->id, sizeof p->id) != 0 || p->n_all != l->n_block) {
        return fg_fail(err, FG_EFORMAT, "%s: a piece of transfer %.8s, expected %.8s of %s", name,
                       a, b, whose);
    }
    const fg_carry_file *f = fg_carry_list_file_of(l, p->first);
    const uint64_t last = p->first + p->n - 1;
    if (fg_carry_list_file_of(l, last) == f &&
        fg_carry_list_bytes_of(l, last) == fg_piece_block_bytes(p, p->n - 1))
        return FG_OK;
    return fg_fail(err, FG_EFORMAT, "%s: blocks %llu to %llu, expected those of one file", name,
                   (ull)p->first, (ull)last);
}

void fg_piece_name(const fg_carry_piece *p, char *out)
{
    char id[FG_CARRY_ID_CHARS];
    fg_hex(p->id, sizeof p->id, id);
    (void)snprintf(out, FG_PIECE_NAME_CHARS, "carry-%.8s-%07llx-%03x.piece", id,
                   (ull)(p->first & 0xfffffff), p->n & 0xfff);
}

bool fg_piece_parse_name(const char *given, uint64_t *first, uint32_t *n)
{
    uint8_t id[4], f[4], k[2];
    char t[8], name[33] = "";
    const size_t len = strlen(given);
    for (size_t i = 0; i < len && len == 32; i++) name[i] = (char)tolower((unsigned char)given[i]);
    if (len != 32 || memcmp(name, "carry-", 6) != 0 || !fg_unhex(name + 6, 4, id) ||
        name[14] != '-' || name[22] != '-' || memcmp(name + 26, ".piece", 6) != 0)
        return false;
    t[0] = '0'; /* seven digits and three make whole bytes with a zero before them */
    memcpy(t + 1, name + 15, 7);
    if (!fg_unhex(t, 4, f)) return false;
    memcpy(t + 1, name + 23, 3);
    if (!fg_unhex(t, 2, k)) return false;
    *first = (uint64_t)f[0] << 24 | (uint64_t)f[1] << 16 | (uint64_t)f[2] << 8 | f[3];
    *n = (uint32_t)k[0] << 8 | k[1];
    return true;
}
