/* SPDX-License-Identifier: MIT
 *
 * What comes on a stick: manifests, the receiver's answer, the two states, and headers of pieces,
 * with the hash at their end made right.  Input: a byte that says which; the text or the header.
 */
#include <stdlib.h>
#include <string.h>

#include "src/base/crypto.h"
#include "src/carry/piece.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(carry, 3000)

enum { MAX_LIST = 1 << 14, PIECE = 4, KINDS = 5 };

static void seed_list(uint8_t kind, const char *text)
{
    uint8_t b[1024];
    const size_t n = strlen(text);
    b[0] = kind;
    memcpy(b + 1, text, n);
    fuzz_seed(b, 1 + n);
}

static void seeds(void)
{
#define ID   "transfer 00112233445566778899aabbccddeeff\n"
#define FROM "sender ffeeddccbbaa99887766554433221100\n"
#define TO   "receiver 0123456789abcdef0123456789abcdef\n"
#define FILES                                                                                      \
    "file 0 5242880\nextent 0 1048576\nextent 2097152 3145728\nfile 3 12288\nextent 4096 8192\n"
    seed_list(0, "fulgur carry 2 manifest\n" ID FROM "name m.fulgur\n" FILES
                 "file 16 100\nextent 0 100\nblocks 6\n");
    seed_list(1, "fulgur carry 2 received\n" ID FROM TO "blocks 6\nhave 0 3\nbad 4 5\n");
    seed_list(2, "fulgur carry 2 sender\n" ID FROM TO "name a_b-1\n" FILES
                 "stamp 12 34\nblocks 5\nsent 1 2\nhave 2 5\ntrips 3\nmoves 1\n");
    seed_list(3, "fulgur carry 2 receiver\n" ID TO "name m\nfile 0 0\nblocks 0\n");
    fg_carry_piece *p = calloc(1, sizeof *p);
    uint8_t b[1 + FG_PIECE_MAX_HEADER] = {PIECE};
    if (p == NULL) abort();
    p->n = 3;
    p->n_all = 6;
    p->first = 1;
    p->bytes = 3 * FG_BLOCK_BYTES;
    p->header_bytes = fg_piece_header_bytes(3);
    memset(p->id, 7, sizeof p->id);
    if (!fg_piece_encode(p, b + 1)) abort();
    fuzz_seed(b, 1 + FG_PIECE_FIXED + 32 * 4);
    free(p);
}

static bool same_lists(const fg_carry_list *a, const fg_carry_list *b)
{
    return a->n_file == b->n_file && a->n_extent == b->n_extent && a->n_block == b->n_block &&
           memcmp(a->id, b->id, sizeof a->id) == 0 &&
           memcmp(a->sender, b->sender, sizeof a->sender) == 0 &&
           memcmp(a->receiver, b->receiver, sizeof a->receiver) == 0 &&
           strcmp(a->name, b->name) == 0 && memcmp(a->block, b->block, (size_t)a->n_block) == 0 &&
           a->moves == b->moves;
}

/* Every byte of every block lies within its file, and no two at one place. */
static void check_places(const fg_carry_list *l)
{
    for (uint64_t block = 0; block < l->n_block && block < 64; block++) {
        const fg_carry_file *f = fg_carry_list_file_of(l, block);
        uint64_t at = (block - f->first) * FG_BLOCK_BYTES, run;
        const uint64_t n = fg_carry_list_bytes_of(l, block);
        FUZZ_CHECK(n >= 1 && n <= FG_BLOCK_BYTES);
        for (uint64_t left = n; left > 0; left -= run, at += run) {
            const uint64_t offset = fg_carry_list_place(l, f, at, &run);
            FUZZ_CHECK(run > 0 && offset + run <= f->bytes);
            if (run > left) run = left;
        }
    }
}

static void one_list(fg_carry_kind kind, const uint8_t *d, size_t n)
{
    static char text[MAX_LIST + 128];
    char hex[65];
    uint8_t sha[32];
    fg_err err = {0};
    fg_carry_list l = {0}, again = {0};
    fg_buf b = {0};
    if (n > MAX_LIST) n = MAX_LIST;
    if (n > 0) memcpy(text, d, n);
    (void)fg_sha256(text, n, sha);
    fg_hex(sha, sizeof sha, hex);
    memcpy(text + n, "end ", 4);
    memcpy(text + n + 4, hex, 64);
    text[n + 68] = '\n';
    const fg_status st = fg_carry_list_parse(&l, kind, text, n + 69, "list", &err);
    fuzz_check_status(st, &err);
    if (st != FG_OK) return;
    FUZZ_CHECK(l.n_block <= FG_CARRY_MAX_BLOCK);
    FUZZ_CHECK(kind == FG_CARRY_RECEIVED || fg_carry_name_is_valid(l.name));
    if (kind != FG_CARRY_RECEIVED) check_places(&l);
    FUZZ_CHECK(fg_carry_list_print(&l, kind, &b));
    FUZZ_CHECK(fg_carry_list_parse(&again, kind, (const char *)b.data, b.len, "list", &err) ==
               FG_OK);
    if (fuzz_planted) again.n_block++;
    FUZZ_CHECK(same_lists(&l, &again));
    fg_buf_fini(&b);
    fg_carry_list_fini(&l);
    fg_carry_list_fini(&again);
}

static void one_piece(const uint8_t *d, size_t n)
{
    static uint8_t b[FG_PIECE_MAX_HEADER], out[FG_PIECE_MAX_HEADER];
    static fg_carry_piece p, again;
    fg_err err = {0};
    size_t need;
    if (n > sizeof b) n = sizeof b;
    memset(b, 0, sizeof b);
    if (n > 0) memcpy(b, d, n);
    const uint64_t hashed = FG_PIECE_FIXED + 32 * (fuzz_get_le(b + 48, 4) & 0xfff);
    (void)fg_sha256(b, (size_t)hashed, b + hashed);
    const fg_status st = fg_piece_decode(&p, b, sizeof b, &need, "piece", &err);
    fuzz_check_status(st, &err);
    FUZZ_CHECK(need == 0);
    if (st != FG_OK) return;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p.n; i++) sum += fg_piece_block_bytes(&p, i);
    FUZZ_CHECK(sum == p.bytes && p.first + p.n <= p.n_all);
    FUZZ_CHECK(fg_piece_encode(&p, out));
    FUZZ_CHECK(fg_piece_decode(&again, out, p.header_bytes, &need, "piece", &err) == FG_OK);
    FUZZ_CHECK(again.bytes == p.bytes + fuzz_planted);
    char name[FG_PIECE_NAME_CHARS];
    uint64_t first = 0;
    uint32_t count = 0;
    fg_piece_name(&p, name);
    FUZZ_CHECK(fg_carry_name_is_valid(name) && fg_piece_parse_name(name, &first, &count));
    FUZZ_CHECK(first == p.first && count == p.n);
}

static void one(const uint8_t *d, size_t n)
{
    if (n == 0) return;
    if (d[0] % KINDS == PIECE) {
        one_piece(d + 1, n - 1);
    } else {
        one_list((fg_carry_kind)(d[0] % KINDS), d + 1, n - 1);
    }
}
