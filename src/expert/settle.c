/* SPDX-License-Identifier: MIT
 *
 * Pages of a file come from the nodes that the thread prefers which reads them, so a range is read
 * (MADV_WILLNEED, in pieces that the kernel reads without going beyond them) before it is touched:
 * a fault would read around itself, across the border of the next node's part.
 */
#include "src/expert/settle.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/mem.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#endif

#define STEP_BYTES ((uint64_t)4 << 20)   /* a worker's turn; the memory of one huge page at least */
#define READ_BYTES ((uint64_t)128 << 10) /* what the kernel reads ahead of one call at least */

/* ---- regions of a file ---- */

static int by_place(const void *a, const void *b)
{
    const fg_region *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? -1 : 1;
    return (x->node > y->node) - (x->node < y->node);
}

/* Whether a piece of what is dense lies within panels of such a matrix. */
static bool in_product(const fg_model_file *f, const fg_slice *piece)
{
    for (uint64_t i = 0; i < fg_model_file_n_tensor(f); i++) {
        const fg_tensor *t = fg_model_file_tensor(f, i);
        if (!fg_slices_is_product((fg_role)t->role) || piece->offset < t->offset) continue;
        const uint64_t bytes = fg_round_up(fg_n_panel(t->n_row) * t->panel_stride, FG_PAGE_BYTES);
        if (piece->offset + piece->bytes <= t->offset + bytes) return true;
    }
    return false;
}

/* Appends a node's part of an extent; piece has room for it. */
static void add_extent(const fg_model_file *f, const fg_slices *s, uint32_t layer, uint32_t expert,
                       uint32_t node, fg_slice *piece, fg_region *out, size_t *n)
{
    const size_t m = fg_slices_pieces(s, layer, expert, node, piece);
    const bool dense = layer == FG_NO_LAYER;
    const uint64_t id = (uint64_t)layer * fg_model_file_shape(f)->n_expert + expert;
    for (size_t i = 0; i < m; i++) {
        uint8_t *p = (uint8_t *)(uintptr_t)fg_model_file_data(f, piece[i].offset);
        const uint64_t of = !dense ? 1 + id : in_product(f, &piece[i]) ? FG_REGION_DENSE : 0;
        out[(*n)++] = (fg_region){p, piece[i].bytes, node, false, of};
    }
}

fg_status fg_settle_regions_of_file(const fg_model_file *f, const fg_slices *s, fg_region **out,
                                    size_t *n_out, fg_err *err)
{
    const fg_shape *shape = fg_model_file_shape(f);
    const uint32_t n_node = fg_slices_n_node(s), n_expert = shape->n_expert;
    size_t n = 0, most = 0, kept = 0;
    for (uint32_t k = 0; k < n_node; k++) {
        const size_t m = fg_slices_pieces(s, FG_NO_LAYER, FG_NO_LAYER, k, NULL);
        most = m > most ? m : most;
        n += m + (size_t)shape->n_layer * n_expert * FG_EXPERT_PIECES;
    }
    most = most > FG_EXPERT_PIECES ? most : FG_EXPERT_PIECES;
    fg_region *r = *out = fg_mem_zalloc_array(n, sizeof *r);
    fg_slice *piece = fg_mem_zalloc_array(most, sizeof *piece);
    if (r == NULL || piece == NULL) {
        fg_mem_free(r);
        fg_mem_free(piece);
        *out = NULL;
        return fg_fail_nomem(err, "placement of the weights");
    }
    n = 0;
    for (uint32_t k = 0; k < n_node; k++) {
        add_extent(f, s, FG_NO_LAYER, FG_NO_LAYER, k, piece, r, &n);
        for (uint32_t i = 0; i < shape->n_layer * n_expert; i++) {
            add_extent(f, s, i / n_expert, i % n_expert, k, piece, r, &n);
        }
    }
    fg_mem_free(piece);
    /* row scales are parts of all nodes, but pages of one */
    qsort(r, n, sizeof *r, by_place);
    for (size_t i = 0; i < n; i++) {
        if (kept == 0 || r[kept - 1].p != r[i].p) r[kept++] = r[i];
    }
    *n_out = kept;
    return FG_OK;
}

/* ---- settling ---- */

typedef struct job {
    const fg_place *place;
    const fg_region *region;
    size_t n;
    const fg_settle_opts *o;
    uint64_t total;
    atomic_ullong done;
    atomic_bool stop; /* cancelled, or failed */
    fg_audit *audit;  /* [worker][n_node] */
    fg_status *st;    /* [worker] */
    fg_err *err;      /* [worker] */
} job;

static void touch(const uint8_t *p, uint64_t bytes)
{
    if (madvise((void *)(uintptr_t)p, (size_t)bytes, MADV_POPULATE_READ) == 0) return;
    for (uint64_t i = 0; i < bytes; i += FG_PAGE_BYTES) (void)((const volatile uint8_t *)p)[i];
}

/* Those of the pages that are in memory already. */
static void touch_cached(const uint8_t *p, uint64_t bytes)
{
    unsigned char in[STEP_BYTES / FG_PAGE_BYTES + 2];
    const uint64_t page = fg_place_page();
    if (mincore((void *)(uintptr_t)p, (size_t)bytes, in) != 0) return;
    for (uint64_t i = 0; i < bytes; i += page) {
        if ((in[i / page] & 1) != 0) (void)((const volatile uint8_t *)p)[i];
    }
}

static void bring_in(const job *j, uint8_t *p, uint64_t bytes, bool fresh)
{
    if (fresh && j->o->mode == FG_SETTLE_ALL) {
        for (uint64_t i = 0; i < bytes; i += FG_PAGE_BYTES) *(volatile uint8_t *)(p + i) = 0;
        return;
    }
    switch (j->o->mode) {
    case FG_SETTLE_LOOK: break;
    case FG_SETTLE_CACHED: touch_cached(p, bytes); break;
    case FG_SETTLE_ALL:
        for (uint64_t i = 0; i < bytes; i += READ_BYTES) {
            const uint64_t m = bytes - i < READ_BYTES ? bytes - i : READ_BYTES;
            (void)madvise(p + i, (size_t)m, MADV_WILLNEED);
        }
        touch(p, bytes);
        break;
    }
}

/* Steps of a node's regions are dealt to its workers, or to all when it has none. */
static bool is_mine(const fg_worker *w, const fg_place *place, uint32_t node, uint64_t step)
{
    if (place->node[node].n_worker == 0) return step % w->n == w->idx;
    return node == w->node && step % w->n_in_node == w->idx_in_node;
}

static fg_status settle_step(const job *j, const fg_region *r, uint64_t at, uint64_t bytes,
                             bool ask, fg_audit *a, fg_err *err)
{
    /* whole pages of the system: where they are larger than the file's, one at a border counts for
     * both nodes */
    const uint64_t before = (uintptr_t)(r->p + at) % fg_place_page();
    uint8_t *p = r->p + at - before;
    bytes = fg_round_up(bytes + before, fg_place_page());
    if (!ask) {
        bring_in(j, p, bytes, r->fresh);
        return FG_OK;
    }
    return j->o->mode == FG_SETTLE_ALL ? fg_place_mend(j->place, r->node, p, bytes, a, err)
                                       : fg_place_audit(j->place, p, bytes, a, err);
}

/* Once over all regions: to bring pages in, and, after a barrier, to ask where they are. */
static void walk(fg_worker *w, job *j, bool ask)
{
    uint64_t step[FG_MAX_NODE] = {0};
    const bool in_turn = j->place->numa == FG_NUMA_INTERLEAVE;
    uint32_t preferred = UINT32_MAX;
    fg_preference before;
    fg_preference_save(&before);
    for (size_t i = 0; i < j->n && !atomic_load(&j->stop); i++) {
        const fg_region *r = &j->region[i];
        for (uint64_t at = 0; at < r->bytes && !atomic_load(&j->stop); at += STEP_BYTES) {
            const uint64_t m = r->bytes - at < STEP_BYTES ? r->bytes - at : STEP_BYTES;
            if (!is_mine(w, j->place, r->node, step[r->node]++)) continue;
            if (!ask && preferred != r->node && fg_place_binds(j->place) &&
                j->place->numa != FG_NUMA_FIRST_TOUCH) {
                (void)fg_topo_prefer(j->place->topo, j->place->node[r->node].real, in_turn);
                preferred = r->node;
            }
            fg_audit *a = &j->audit[(size_t)w->idx * j->place->n_node + r->node];
            const fg_status st = settle_step(j, r, at, m, ask, a, &j->err[w->idx]);
            if (st != FG_OK) {
                j->st[w->idx] = st;
                atomic_store(&j->stop, true);
                break;
            }
            const uint64_t done = atomic_fetch_add(&j->done, m) + m;
            if (w->idx == 0 && j->o->progress != NULL && !atomic_load(&j->stop) &&
                !j->o->progress(j->o->ctx, done / 2, j->total)) {
                j->st[0] = fg_fail(&j->err[0], FG_ECANCEL, "placing the weights: cancelled");
                atomic_store(&j->stop, true);
            }
        }
    }
    fg_preference_restore(&before);
}

static void settle_all(fg_worker *w, void *arg)
{
    job *j = arg;
    walk(w, j, false);
    fg_worker_sync(w); /* what one brought in may be another's */
    walk(w, j, true);
}

static void add(fg_audit *to, const fg_audit *a)
{
    to->n_page += a->n_page;
    to->elsewhere += a->elsewhere;
    to->absent += a->absent;
    to->moved += a->moved;
    for (uint32_t k = 0; k < FG_MAX_NODE; k++) to->on_node[k] += a->on_node[k];
}

fg_status fg_settle(fg_team *team, const fg_region *region, size_t n, const fg_settle_opts *o,
                    fg_audit *audit, fg_err *err)
{
    const fg_place *place = fg_team_place(team);
    const uint32_t n_worker = fg_team_size(team);
    job j = {.place = place, .region = region, .n = n, .o = o};
    fg_status st = FG_OK;
    j.audit = fg_mem_zalloc_array((size_t)n_worker * place->n_node, sizeof *j.audit);
    j.st = fg_mem_zalloc_array(n_worker, sizeof *j.st);
    j.err = fg_mem_zalloc_array(n_worker, sizeof *j.err);
    if (j.audit == NULL || j.st == NULL || j.err == NULL) {
        st = fg_fail_nomem(err, "placement of the weights");
    }
    for (size_t i = 0; i < n; i++) j.total += region[i].bytes;
    if (st == FG_OK) fg_team_run(team, settle_all, &j);
    for (uint32_t i = 0; i < n_worker && st == FG_OK; i++) {
        if (j.st[i] == FG_OK) continue;
        st = j.st[i];
        if (err != NULL) *err = j.err[i];
    }
    for (size_t i = 0; i < (size_t)n_worker * place->n_node && st == FG_OK; i++) {
        add(&audit[i % place->n_node], &j.audit[i]);
    }
    fg_mem_free(j.audit);
    fg_mem_free(j.st);
    fg_mem_free(j.err);
    return st;
}
