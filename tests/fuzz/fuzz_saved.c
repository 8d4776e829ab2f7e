/* SPDX-License-Identifier: MIT
 *
 * The log of a saved session, its hashes made right again so that what records say is looked at;
 * and, of an input whose first byte is odd, the file of a snapshot.  What was read can be gone on
 * with and read again.  Input of a log: records, each a byte of type, 2 bytes of length and flags,
 * and the payload.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/hash.h"
#include "src/base/mem.h"
#include "src/engine/session_log.h"
#include "src/engine/session_parts.h"
#include "tests/fuzz/fuzz.h"

FUZZ_TARGET(saved, 1500)

enum { MAX_FILE = 1 << 17, HEAD = 24, LENGTH = 0x3ff, WRONG_HASH = 0x8000, SNAPSHOT = 1 };

static void seed_record(uint8_t *seed, size_t *at, uint8_t type, const uint64_t *v, size_t n)
{
    seed[(*at)++] = type;
    fuzz_put_le(seed + *at, 2, 8 * n);
    *at += 2;
    for (size_t i = 0; i < n; i++, *at += 8) fuzz_put_le(seed + *at, 8, v[i]);
}

static void seeds(void)
{
    uint8_t seed[8000] = {0};
    size_t at = 1;
    const uint64_t open[] = {1 | (uint64_t)1 << 32, 2, 11, 12, 4096, 13, 272, 4096, 0x6f6d};
    uint64_t ids[66] = {0}, note[] = {64, 0x6f6c6c656801};
    for (uint64_t i = 1; i < 66; i++) ids[i] = i;
    const uint64_t blocks[] = {0, 1, 2}, mark[] = {100, 0, 77, 5000}, undo = 64, drop = 0;
    seed_record(seed, &at, FG_RECORD_OPEN, open, 9);
    seed_record(seed, &at, FG_RECORD_SYNC, NULL, 0);
    seed_record(seed, &at, FG_RECORD_IDS, ids, 66);
    seed_record(seed, &at, FG_RECORD_MESSAGE, note, 2);
    seed_record(seed, &at, FG_RECORD_STATE, note, 2);
    seed_record(seed, &at, FG_RECORD_BLOCKS, blocks, 3);
    seed_record(seed, &at, FG_RECORD_MARK, mark, 4);
    seed_record(seed, &at, FG_RECORD_SYNC, NULL, 0);
    fuzz_seed(seed, at);
    seed_record(seed, &at, FG_RECORD_UNDO, &undo, 1);
    seed_record(seed, &at, FG_RECORD_TITLE, note, 2);
    seed_record(seed, &at, FG_RECORD_DROP, &drop, 1);
    seed_record(seed, &at, FG_RECORD_SYNC, NULL, 0);
    fuzz_seed(seed, at);
    seed[0] = SNAPSHOT;
    fuzz_put_le(seed + 1, 4, 5000);
    fuzz_seed(seed, 200);
}

/* The file that the input stands for; its length. */
static size_t build_log(uint8_t *file, const uint8_t *d, size_t n)
{
    uint64_t before = 0, seq = 0;
    size_t at = 0;
    while (n > 2 && at + LENGTH + HEAD + 8 < MAX_FILE) {
        const uint64_t type = fuzz_take(&d, &n, 1), head = fuzz_take(&d, &n, 2);
        const uint64_t want = head & LENGTH, len = want < n ? want : n;
        uint8_t *r = file + at, le[16];
        fuzz_put_le(r, 4, 0x52534746);
        fuzz_put_le(r + 4, 4, type);
        fuzz_put_le(r + 8, 8, len);
        fuzz_put_le(r + 16, 8, seq++);
        memcpy(r + HEAD, d, len);
        fuzz_put_le(le, 8, before);
        fuzz_put_le(le + 8, 8, fg_hash64(r, HEAD + len));
        before = fg_hash64(le, sizeof le);
        fuzz_put_le(r + HEAD + len, 8, (head & WRONG_HASH) != 0 ? ~before : before);
        at += HEAD + 8 + len;
        d += len;
        n -= len;
    }
    return at;
}

static fg_status parse(fg_history *h, const uint8_t *file, size_t n, fg_err *err)
{
    uint8_t *copy = fg_mem_alloc(n);
    if (copy == NULL) abort();
    memcpy(copy, file, n);
    return fg_history_parse(h, copy, n, "log", err);
}

/* What must hold of anything that was read. */
static void check_history(const fg_history *h)
{
    uint64_t before = 0;
    for (size_t i = 0; i < h->n_mark; i++) {
        FUZZ_CHECK(h->mark[i].pos >= before && h->mark[i].pos <= h->n_id);
        FUZZ_CHECK(h->mark[i].number < h->next_number);
        before = h->mark[i].pos;
    }
    for (size_t i = 0; i < h->n_event; i++) {
        const fg_saved_event *e = &h->event[i];
        const bool always = e->kind == FG_SAVED_SETTINGS || e->kind == FG_SAVED_TITLE;
        FUZZ_CHECK(always || e->pos <= h->n_id);
        FUZZ_CHECK(e->kind != FG_SAVED_MESSAGE || (e->n > 0 && e->payload[0] < 3));
        FUZZ_CHECK(e->kind != FG_SAVED_FORCED || e->n == 8);
    }
    FUZZ_CHECK(h->n_block <= h->n_id / 64);
    FUZZ_CHECK(h->state == NULL || h->state_pos <= h->n_id);
}

static void one_log(const uint8_t *d, size_t n)
{
    static uint8_t file[MAX_FILE];
    fg_err err = {0};
    fg_history h;
    const size_t size = build_log(file, d, n);
    fg_status st = parse(&h, file, size, &err);
    fuzz_check_status(st, &err);
    if (st == FG_OK && h.is_begun) {
        check_history(&h);
        const char *path = fuzz_put("log", file, size);
        const uint64_t n_id = h.n_id, undo = h.n_id / 2;
        fg_log g;
        FUZZ_CHECK(fg_log_start(&g, open(path, O_RDWR), path, &h, &err) == FG_OK);
        fg_log_put_u64(&g, FG_RECORD_UNDO, &undo, 1);
        FUZZ_CHECK(fg_log_commit(&g, &err) == FG_OK);
        fg_history_fini(&h);
        FUZZ_CHECK(fg_history_read(&h, path, g.fd, &err) == FG_OK);
        FUZZ_CHECK(h.n_id == (fuzz_planted ? n_id + 1 : n_id / 2) && h.n_after == 0);
        check_history(&h);
        fg_log_fini(&g);
    }
    fg_history_fini(&h);
}

static bool go_on(void *ctx, uint64_t bytes)
{
    (void)ctx;
    (void)bytes;
    return true;
}

/* A header whose own hashes are right, sizes of the input's choice, and what follows. */
static void one_snapshot(const uint8_t *d, size_t n)
{
    static uint8_t file[3 * MAX_FILE], buf[FG_SNAPSHOT_PIECE];
    fg_err err = {0};
    const uint64_t bytes = fuzz_take(&d, &n, 4), flags = fuzz_take(&d, &n, 1);
    const uint64_t said = (flags & 1) != 0 ? bytes * bytes : bytes % MAX_FILE;
    const size_t body = (size_t)(bytes % MAX_FILE),
                 table = (body + MAX_FILE * 8 - 1) / (MAX_FILE * 8);
    memset(file, 0, sizeof file);
    memcpy(file,
           "\x89"
           "FGSNAP\n",
           8);
    fuzz_put_le(file + 8, 4, (flags & 2) != 0 ? 7 : 1);
    fuzz_put_le(file + 24, 8, said);
    memcpy(file + FG_SNAPSHOT_HEAD, d, n < body ? n : body);
    fuzz_put_le(file + FG_SNAPSHOT_HEAD + body, 8, fg_hash64(file + FG_SNAPSHOT_HEAD, body));
    fuzz_put_le(file + 32, 8, fg_hash64(file + FG_SNAPSHOT_HEAD + body, 8 * table));
    const uint64_t root = fg_hash64(file, FG_SNAPSHOT_HEAD - 8);
    fuzz_put_le(file + FG_SNAPSHOT_HEAD - 8, 8, root);
    const size_t cut = (flags & 4) != 0 ? 5 : 0;
    const char *path = fuzz_put("s.0", file, FG_SNAPSHOT_HEAD + body + 8 * table - cut);
    const fg_status st = fg_bulk_check_snapshot(path, root, buf, go_on, NULL, &err);
    fuzz_check_status(st, &err);
    FUZZ_CHECK((st == FG_OK) == (said == body && (flags & 6) == 0 && !fuzz_planted));
}

static void one(const uint8_t *d, size_t n)
{
    if (n == 0) return;
    if ((d[0] & SNAPSHOT) != 0) {
        one_snapshot(d + 1, n - 1);
    } else {
        one_log(d + 1, n - 1);
    }
}
