/* SPDX-License-Identifier: MIT
 *
 * Reads that come late: a slot of several nodes is given to another expert while pieces of the last
 * one are on their way to it.  A backend holds those back until nothing else is asked for.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/expert/drives.h"
#include "src/expert/store.h"
#include "tests/fg_test.h"
#include "tests/models.h"

/* Reads at once, but pieces of one range of the file: those only once the gate is open and nothing
 * else has been asked for for a while. */
static struct {
    uint64_t begin, end; /* of the file; end 0: none is late */
    atomic_bool gate;
    _Atomic uint32_t n_held, n_read;
    struct {
        uint8_t *dst;
        uint32_t bytes;
    } held[FG_IO_MAX_DEPTH];
} late;

typedef struct late_io {
    int fd;
    uint32_t n, n_late, n_idle;
    fg_io_piece *piece[FG_IO_MAX_DEPTH], *late[FG_IO_MAX_DEPTH];
} late_io;

static fg_status late_open(void **ctx, int fd, uint32_t depth, fg_err *err)
{
    late_io *l = calloc(1, sizeof *l);
    (void)depth;
    *ctx = l;
    if (l == NULL) return fg_fail_nomem(err, "late");
    l->fd = fd;
    return FG_OK;
}

static void late_submit(void *ctx, fg_io_piece *p)
{
    late_io *l = ctx;
    if (p->offset < late.begin || p->offset >= late.end) {
        l->piece[l->n++] = p;
        return;
    }
    l->late[l->n_late++] = p;
    late.held[atomic_load(&late.n_held)].dst = p->dst;
    late.held[atomic_load(&late.n_held)].bytes = p->bytes;
    atomic_fetch_add(&late.n_held, 1);
}

static uint32_t late_reap(void *ctx, fg_io_piece **done, uint32_t max)
{
    enum { IDLE = 100 }; /* ms; whoever wants to ask has by then */
    late_io *l = ctx;
    const bool now = l->n == 0 && atomic_load(&late.gate) && ++l->n_idle > IDLE;
    fg_io_piece **from = now ? l->late : l->piece;
    uint32_t *left = now ? &l->n_late : &l->n, n = 0;
    if (l->n != 0) l->n_idle = 0;
    if (*left == 0) (void)usleep(1000);
    for (; n<max && * left> 0; n++) {
        fg_io_piece *p = done[n] = from[--*left];
        p->result = (int32_t)pread(l->fd, p->dst, p->bytes, (off_t)p->offset);
        if (now) atomic_fetch_add(&late.n_read, 1);
    }
    return n;
}

static const fg_io_ops late_ops = {"late", late_open, free, late_submit, late_reap};

/* All but the first piece of an expert on each node: those are behind the others in the file. */
static void make_late(const fg_slices *slices, const fg_model_file *f, uint32_t layer,
                      uint32_t expert)
{
    const fg_extent x = fg_model_file_expert_extent(f, layer, expert);
    late.begin = late.end = x.offset + x.bytes;
    for (uint32_t k = 0; k < fg_slices_n_node(slices); k++) {
        fg_slice piece[FG_EXPERT_PIECES];
        const size_t n = fg_slices_pieces(slices, layer, expert, k, piece);
        if (n > 1 && piece[1].offset < late.begin) late.begin = piece[1].offset;
    }
    atomic_store(&late.gate, false);
    atomic_store(&late.n_held, 0);
    atomic_store(&late.n_read, 0);
}

static bool overlap(const uint8_t *a, uint64_t n, const uint8_t *b, uint64_t m)
{
    return a < b + m && b < a + n;
}

/* Whether an expert's pieces are the file's on all nodes; *shared: pieces on which what is held
 * would land that are not its own place. */
static bool nodes_are_right(fg_store *s, const fg_model_file *f, uint32_t layer, uint32_t expert,
                            uint32_t *shared)
{
    bool ok = true;
    for (uint32_t k = 0; k < fg_slices_n_node(fg_store_slices(s)); k++) {
        fg_slice piece[FG_EXPERT_PIECES];
        const size_t n = fg_slices_pieces(fg_store_slices(s), layer, expert, k, piece);
        for (uint32_t i = 0; i < n; i++) {
            const uint8_t *p = fg_store_data(s, expert, k) + piece[i].at;
            ok = fg_store_wait(s, expert, k, (fg_reach){i, piece[i].bytes}) && ok;
            ok = ok && memcmp(p, fg_model_file_data(f, piece[i].offset), piece[i].bytes) == 0;
            for (uint32_t h = 0; h < atomic_load(&late.n_held); h++) {
                *shared += late.held[h].dst != p &&
                           overlap(late.held[h].dst, late.held[h].bytes, p, piece[i].bytes);
            }
        }
    }
    return ok;
}

static void wait_for_late(void)
{
    for (int t = 0; t < 5000 && atomic_load(&late.n_read) < atomic_load(&late.n_held); t++) {
        (void)usleep(1000);
    }
    CHECK(atomic_load(&late.n_held) > 0);
    CHECK_U64(atomic_load(&late.n_read), atomic_load(&late.n_held));
}

/* Three layers with the least of memory: an expert of layer 1 is hinted and not wanted, and its
 * slot goes to another of layer 2.  Returns how much what is late could do harm to. */
static uint32_t use_slot_again(fg_store *s, const fg_model_file *f, uint32_t e)
{
    const fg_guess wrong = {.n_ahead = 1, .id = {{e, e}}};
    uint32_t ids[3][2] = {{20, 21}, {22, 23}, {e, e + 1}}, sel[2] = {20, 21}, n_shared = 0;
    fg_err err = {0};
    for (uint32_t l = 0; l < 3; l++) {
        if (l == 2) atomic_store(&late.gate, true);
        fg_store_begin_layer(s, l, ids[l], 2);
        while (fg_store_next_wave(s) > 0) {
            for (uint32_t i = 0; i < 2; i++) CHECK(nodes_are_right(s, f, l, ids[l][i], &n_shared));
        }
        if (l < 2) fg_store_hint(s, sel, 1, l == 0 ? &wrong : NULL);
        if (l == 2) wait_for_late();
        for (uint32_t i = 0; i < 2; i++) CHECK(nodes_are_right(s, f, l, ids[l][i], &n_shared));
        CHECK_OK(fg_store_end_layer(s, &err), &err);
    }
    return n_shared;
}

/* A slot of several nodes is given to another expert while the last one's pieces, which lay
 * elsewhere in it, are on their way. */
FG_TEST(what_comes_late_does_no_harm)
{
    const fg_place_opts po = {.n_worker = 1, .pretend_nodes = 3};
    const char *path = model_file(NANO_DIR, "bf16"); /* parts of experts that differ */
    fg_model_file *f = NULL;
    fg_place *place = NULL;
    fg_slices *slices = NULL;
    fg_store *s = NULL;
    fg_err err = {0};
    REQUIRE(path != NULL);
    REQUIRE_OK(fg_model_file_open(&f, path, &err), &err);
    REQUIRE_OK(fg_place_make(&place, NULL, &po, &err), &err);
    REQUIRE_OK(fg_slices_create(&slices, fg_model_file_plan(f), place, &err), &err);
    for (uint32_t e = 0; e < 2; e++) {
        const fg_store_opts o = {.bytes = fg_store_least_of(f, slices),
                                 .io = {.ops = &late_ops},
                                 .predict = FG_PREDICT_ROUTER,
                                 .slices = slices};
        make_late(slices, f, 1, e);
        REQUIRE_OK(fg_store_create(&s, f, &o, &err), &err);
        fg_store_set_clock(s, NULL);
        CHECK(use_slot_again(s, f, e) > 0); /* else nothing was tried */
        fg_store_destroy(&s);
    }
    fg_slices_destroy(&slices);
    fg_place_destroy(&place);
    fg_model_file_close(&f);
}

/* Negative control: two reads into one memory, the first of them late, and nobody waits. */
FG_TEST(what_comes_late_does_harm)
{
    const char *path = model_file(NANO_DIR, "q4");
    fg_model_file *f = NULL;
    fg_drives *d = NULL;
    fg_range first = {0}, second = {0};
    fg_err err = {0};
    const fg_fetch_opts o = {.ops = &late_ops};
    REQUIRE(path != NULL);
    REQUIRE_OK(fg_model_file_open(&f, path, &err), &err);
    const fg_extent a = fg_model_file_expert_extent(f, 1, 0);
    const fg_extent b = fg_model_file_expert_extent(f, 2, 0);
    uint8_t *dst = fg_mem_map((size_t)(a.bytes + b.bytes));
    late.begin = a.offset;
    late.end = a.offset + a.bytes;
    atomic_store(&late.gate, true);
    atomic_store(&late.n_held, 0);
    atomic_store(&late.n_read, 0);
    REQUIRE(dst != NULL);
    REQUIRE_OK(fg_drives_create(&d, f, &o, &err), &err);
    CHECK_OK(fg_drives_start(d, &first, dst, a.offset, a.bytes, true, &err), &err);
    CHECK_OK(fg_drives_start(d, &second, dst, b.offset, b.bytes, true, &err), &err);
    CHECK(fg_drives_wait(d, &second, b.bytes));
    CHECK(memcmp(dst, fg_model_file_data(f, b.offset), (size_t)b.bytes) == 0);
    wait_for_late();
    CHECK(memcmp(dst, fg_model_file_data(f, b.offset), (size_t)b.bytes) != 0);
    fg_drives_destroy(&d);
    fg_range_fini(&first);
    fg_range_fini(&second);
    fg_mem_unmap(dst, (size_t)(a.bytes + b.bytes));
    fg_model_file_close(&f);
}
