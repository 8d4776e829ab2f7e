/* SPDX-License-Identifier: MIT
 *
 * The large files of a saved session at the dimensions of the release: what is read is what was
 * written, by any number of workers and nodes, and both take about as long as the disk does for as
 * many bytes.  Of a tenth of the layers; a long run has all 80 and 32K tokens, a gigabyte, and says
 * how fast.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/rng.h"
#include "src/engine/session_parts.h"
#include "tests/fg_test.h"

enum { MIB = 1 << 20 };

typedef struct rig {
    fg_shape shape;
    fg_team *team;
    fg_state *st;
    uint64_t pos, n_block, *hash, root;
    char kv[512], snapshot[512];
} rig;

static void fill(void *p, uint64_t bytes, fg_rng *r)
{
    uint64_t *v = p;
    for (uint64_t i = 0; i < bytes / 8; i += 64) { /* of each cache line's run a word is enough */
        v[i] = fg_rng_u64(r);
    }
}

static fg_state *state_of(const fg_shape *s, uint64_t n_ctx, const fg_place *place)
{
    fg_state *st = NULL;
    fg_err err = {0};
    CHECK_OK(fg_state_create(&st, s, n_ctx, FG_KV_INT8, place, &err), &err);
    return st;
}

static bool rig_open(rig *r, uint32_t n_layer, uint64_t pos, uint32_t n_thread)
{
    fg_err err = {0};
    fg_rng g;
    fg_rng_init(&g, 3);
    *r = (rig){.shape = {.n_layer = n_layer, .n_head = 64, .n_kv_head = 8, .d_head = 128}};
    r->shape.n_ctx_max = 1 << 20;
    for (uint32_t l = 0; l < n_layer; l++) {
        r->shape.attn[l] = l % 8 == 7 ? FG_ATTN_SOFTMAX : FG_ATTN_LIGHTNING;
    }
    r->pos = pos;
    r->n_block = pos / FG_STATE_BLOCK;
    (void)snprintf(r->kv, sizeof r->kv, "%s", fg_test_tmp("kv"));
    (void)snprintf(r->snapshot, sizeof r->snapshot, "%s", fg_test_tmp("s.0"));
    r->hash = calloc((size_t)r->n_block + 1, sizeof *r->hash);
    r->st = state_of(&r->shape, pos + 64, NULL);
    if (fg_team_create(&r->team, n_thread, false, &err) != FG_OK || r->st == NULL) return false;
    fill(r->st->map, r->st->bytes, &g);
    r->st->pos = pos;
    r->st->folded = pos - pos % 64;
    return r->hash != NULL;
}

static void rig_close(rig *r)
{
    (void)unlink(r->kv);
    (void)unlink(r->snapshot);
    fg_state_destroy(&r->st);
    fg_team_destroy(&r->team);
    free(r->hash);
}

static double seconds(uint64_t since)
{
    return (double)(fg_clock_ns() - since) * 1e-9;
}

static double save(rig *r)
{
    fg_err err = {0};
    const fg_bulk p = {.team = r->team, .shape = &r->shape, .state = r->st};
    (void)unlink(r->kv);
    const uint64_t t0 = fg_clock_ns();
    const int fd = open(r->kv, O_RDWR | O_CREAT, 0600);
    CHECK(fd >= 0);
    CHECK_OK(fg_bulk_write_blocks(&p, fd, r->kv, 0, r->n_block, r->hash, &err), &err);
    CHECK_OK(fg_bulk_write_snapshot(&p, r->snapshot, r->pos, &r->root, &err), &err);
    const double s = seconds(t0);
    (void)close(fd);
    return s;
}

static double load(rig *r, fg_state *to)
{
    fg_err err = {0};
    uint64_t good = 0;
    const fg_bulk p = {.team = r->team, .shape = &r->shape, .state = to};
    const uint64_t t0 = fg_clock_ns();
    const int fd = open(r->kv, O_RDONLY);
    CHECK(fd >= 0);
    CHECK_OK(fg_bulk_read_blocks(&p, fd, r->kv, r->n_block, r->hash, &good, &err), &err);
    CHECK_U64(good, r->n_block);
    CHECK_OK(fg_bulk_read_snapshot(&p, r->snapshot, r->pos, r->root, &err), &err);
    const double s = seconds(t0);
    (void)close(fd);
    return s;
}

/* The bytes that leave both states are the same. */
static bool is_same(const rig *r, const fg_state *b)
{
    const uint64_t n = fg_state_image_bytes(&r->shape, FG_KV_INT8, r->pos);
    uint8_t *x = malloc(MIB), *y = malloc(MIB);
    bool same = x != NULL && y != NULL;
    for (uint64_t at = 0; same && at < n; at += MIB) {
        const size_t m = n - at < MIB ? (size_t)(n - at) : MIB;
        fg_state_image_get(r->st, &r->shape, r->pos, at, x, m);
        fg_state_image_get(b, &r->shape, r->pos, at, y, m);
        same = memcmp(x, y, m) == 0;
    }
    struct iovec v[512], w[512];
    const size_t n_run = fg_state_block_runs(&r->shape, FG_KV_INT8);
    for (uint64_t i = 0; same && n_run <= 512 && i < r->n_block; i++) {
        fg_state_block(r->st, &r->shape, i, v);
        fg_state_block(b, &r->shape, i, w);
        for (size_t k = 0; same && k < n_run; k++) {
            same = v[k].iov_len == w[k].iov_len &&
                   memcmp(v[k].iov_base, w[k].iov_base, v[k].iov_len) == 0;
        }
    }
    free(x);
    free(y);
    return same;
}

FG_TEST(what_is_read_is_what_was_written)
{
    static const fg_place three = {.n_node = 3,
                                   .weight = 3,
                                   .node = {{.weight = 1}, {.weight = 1}, {.weight = 1}},
                                   .n_deal = 3,
                                   .deal = {0, 1, 2},
                                   .n_dealt = {1, 1, 1}};
    rig r;
    REQUIRE(rig_open(&r, 8, 1000, 2));
    (void)save(&r);
    fg_state *one = state_of(&r.shape, 1100, NULL), *many = state_of(&r.shape, 2000, &three);
    REQUIRE(one != NULL && many != NULL);
    CHECK(!is_same(&r, one)); /* control */
    (void)load(&r, one);
    (void)load(&r, many);
    CHECK(is_same(&r, one) && is_same(&r, many));
    ((float *)fg_state_head(many, 3, 63).s)[128 * 128 - 1] += 1; /* control: the last of a layer */
    CHECK(!is_same(&r, many));
    fg_state_destroy(&one);
    fg_state_destroy(&many);
    rig_close(&r);
}

/* As many bytes, written and read plainly: what the disk can. */
static void plain(const char *path, uint64_t bytes, double *written, double *read_back)
{
    uint8_t *buf = malloc(MIB);
    REQUIRE(buf != NULL);
    memset(buf, 0x5a, MIB);
    uint64_t t0 = fg_clock_ns();
    const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    REQUIRE(fd >= 0);
    for (uint64_t at = 0; at < bytes; at += MIB) CHECK(pwrite(fd, buf, MIB, (off_t)at) == MIB);
    CHECK(fdatasync(fd) == 0);
    *written = seconds(t0);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    t0 = fg_clock_ns();
    for (uint64_t at = 0; at < bytes; at += MIB) CHECK(pread(fd, buf, MIB, (off_t)at) == MIB);
    *read_back = seconds(t0);
    (void)close(fd);
    (void)unlink(path);
    free(buf);
}

FG_TEST(a_session_of_32k_tokens_at_disk_speed)
{
    rig r;
    const bool whole = fg_test_long();
    REQUIRE(rig_open(&r, whole ? 80 : 8, (whole ? 32768 : 1024) + 31, 2));
    fg_state *to = state_of(&r.shape, 33000, NULL);
    REQUIRE(to != NULL);
    memset(to->map, 0, (size_t)to->bytes); /* a session's memory is there by then */
    const uint64_t bytes = r.n_block * 64 * fg_state_row_bytes(&r.shape, FG_KV_INT8) +
                           fg_state_image_bytes(&r.shape, FG_KV_INT8, r.pos);
    bool saved = false, loaded = false;
    for (int i = 0; i < (whole ? 5 : 1) && !(saved && loaded); i++) { /* others use the disk too */
        double written = 0, read_back = 0;
        plain(fg_test_tmp("plain"), bytes, &written, &read_back);
        const double s = save(&r), l = load(&r, to);
        printf("  %.2f GB: saved in %.2f s, plainly %.2f; read in %.2f s, plainly %.2f (%.0f %%)\n",
               (double)bytes * 1e-9, s, written, l, read_back, 100 * read_back / l);
        saved = saved || s < written + 2;
        loaded = loaded || read_back / l >= 0.8;
    }
    CHECK((!whole || (saved && loaded)) && is_same(&r, to));
    fg_state_destroy(&to);
    rig_close(&r);
}
