/* SPDX-License-Identifier: MIT
 *
 * The journal of an unfinished file, its hashes made right again so that what records claim is
 * looked at.  What was loaded can be cut, gone on with and loaded again.  Input: the identity; then
 * records, each 2 bytes of length and flags, 1 byte of kind, and the body.
 */
#include <stdlib.h>
#include <string.h>

#include "src/base/hash.h"
#include "src/format/write/journal.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(journal, 1500)

enum {
    HEADER = 32,
    FIXED = 32,
    MAX_FILE = 1 << 18,
    LENGTH = 0x1ff,
    WRONG_HASH = 0x8000,
    COUNTS = 1
};

static void seeds(void)
{
    uint8_t seed[600] = {0};
    static const uint16_t length[] = {32 + 16 + 8 + 40, 32, 32 + 100, 32 + 16};
    size_t at = 8;
    for (size_t i = 0; i < 4; i++) {
        fuzz_put_le(seed + at, 2, length[i]);
        seed[at + 2] = COUNTS;
        for (size_t k = 0; k < 32; k++) seed[at + 3 + k] = (uint8_t)(k % 8 == 0 ? i + 1 : 0);
        at += 3 + length[i];
        fuzz_seed(seed, at);
    }
}

/* Counts that the length of the body allows, the rest being payload. */
static void fit_counts(uint8_t *body, uint64_t n)
{
    const uint64_t span = body[0] % 4, hash = body[8] % 8, result = body[16] % 4;
    const uint64_t used = FIXED + FG_SPAN_BYTES * span + 8 * hash + FG_RESULT_BYTES * result;
    fuzz_put_le(body, 8, span);
    fuzz_put_le(body + 8, 8, hash);
    fuzz_put_le(body + 16, 8, result);
    fuzz_put_le(body + 24, 8, used <= n ? n - used : 0);
}

/* The file that the input stands for; its length. */
static size_t build(uint8_t *file, const uint8_t *d, size_t n)
{
    memcpy(file,
           "\x89"
           "FGJRNL\n",
           8);
    fuzz_put_le(file + 8, 8, 2); /* version */
    fuzz_put_le(file + 16, 8, fuzz_take(&d, &n, 8));
    uint64_t before = fg_hash64(file, HEADER - 8);
    fuzz_put_le(file + 24, 8, before);
    size_t at = HEADER;
    while (n > 3 && at + LENGTH + 16 < MAX_FILE) {
        const uint64_t head = fuzz_take(&d, &n, 2), kind = fuzz_take(&d, &n, 1);
        const uint64_t want = head & LENGTH, len = want < n ? want : n;
        uint8_t *r = file + at, le[16];
        fuzz_put_le(r, 8, len);
        memcpy(r + 8, d, len);
        if ((kind & COUNTS) != 0 && len >= FIXED) fit_counts(r + 8, len);
        fuzz_put_le(le, 8, before);
        fuzz_put_le(le + 8, 8, fg_hash64(r, 8 + len));
        before = fg_hash64(le, sizeof le);
        fuzz_put_le(r + 8 + len, 8, (head & WRONG_HASH) != 0 ? ~before : before);
        at += 16 + len;
        d += len;
        n -= len;
    }
    return at;
}

static uint64_t read_records(const fg_journal *j)
{
    static fg_tensor tensor[64];
    uint64_t sum = 0;
    for (size_t i = 0; i < fg_journal_n_record(j); i++) {
        const fg_checkpoint *c = fg_journal_record(j, i);
        for (uint64_t k = 0; k < c->n_span; k++) sum += fg_checkpoint_span(c, k).first;
        for (uint64_t k = 0; k < c->n_hash; k++) sum += fg_checkpoint_hash(c, k);
        for (uint64_t k = 0; k < c->n_payload; k++) sum += c->payload[k];
        sum += fg_checkpoint_results(c, tensor, 64);
    }
    return sum;
}

static void one(const uint8_t *d, size_t n)
{
    static uint8_t file[MAX_FILE];
    fg_err err = {0};
    fg_journal *j;
    const char *path = fuzz_put("journal", file, build(file, d, n));
    fg_status st = fg_journal_load(&j, path, &err);
    fuzz_check_status(st, &err);
    if (st != FG_OK) return;
    (void)read_records(j);
    if (fg_journal_n_record(j) > 0) {
        const fg_checkpoint c = {.n_payload = 3, .payload = (const uint8_t *)"abc"};
        FUZZ_CHECK(fg_journal_keep(j, 1, &err) == FG_OK);
        FUZZ_CHECK(fg_journal_append(j, &c, &err) == FG_OK);
        fg_journal_close(&j);
        FUZZ_CHECK(fg_journal_load(&j, path, &err) == FG_OK);
        FUZZ_CHECK(fg_journal_n_record(j) == (fuzz_planted ? 3 : 2));
    }
    fg_journal_close(&j);
}
