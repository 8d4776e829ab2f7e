/* SPDX-License-Identifier: MIT */
#include "src/model/state.h"

#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/model/device.h"
#include "src/sys/room.h"

enum { ROW_STEP = 64 }; /* positions that kernels may read together */

#define HUGE_PAGES_FROM ((uint64_t)64 << 20) /* bytes of a state */

/* Bump allocation over the mapping; with base == NULL it only measures. */
typedef struct arena {
    uint8_t *base;
    uint64_t used;
    bool overflow;
} arena;

static void *take(arena *a, uint64_t n, uint64_t m, uint64_t size)
{
    uint64_t bytes;
    if (!fg_mul_u64(n, m, &bytes) || !fg_mul_u64(bytes, size, &bytes) || bytes > INT64_MAX / 4 ||
        a->used > INT64_MAX / 2) {
        a->overflow = true;
        return NULL;
    }
    uint8_t *p = a->base == NULL ? NULL : a->base + a->used;
    a->used += fg_round_up(bytes, FG_PAGE_BYTES); /* pages are first touched by one owner */
    return p;
}

/* What node k has of a layer. */
static fg_layer_part take_part(arena *a, const fg_state *st, bool lightning, uint32_t k)
{
    const uint64_t d = st->d_head, size = fg_kv_bytes(st->kv_type);
    fg_layer_part y = {0};
    if (lightning) {
        y.n_head = st->heads.begin[k + 1] - st->heads.begin[k];
        y.s = take(a, y.n_head * d, d, sizeof(float));
        y.kt = take(a, y.n_head * d, FG_LIGHT_CHUNK, sizeof(float));
        y.v = take(a, y.n_head * d, FG_LIGHT_CHUNK, sizeof(float));
        return y;
    }
    const uint64_t n_span = (st->n_pos + st->span - 1) / st->span;
    const uint64_t last = n_span == 0 ? 0 : st->n_pos - (n_span - 1) * st->span;
    const uint64_t n_last =
        fg_place_n_dealt(&st->place, k, n_span * st->n_kv_head) - st->n_whole[k];
    y.n_row = st->n_whole[k] * st->span + n_last * last;
    y.k_cache = take(a, y.n_row, d, size);
    y.v_cache = take(a, y.n_row, d, size);
    if (st->kv_type == FG_KV_INT8) {
        y.k_scale = take(a, y.n_row, 1, sizeof(float));
        y.v_scale = take(a, y.n_row, 1, sizeof(float));
    }
    return y;
}

/* A whole number of pages on every system (FORMAT.md 7 has pages of 4 KiB): borders of nodes. */
#define NODE_BYTES ((uint64_t)64 << 10)

/* Node after node, layer after layer. */
static void lay_out(arena *a, fg_state *st, const fg_shape *s)
{
    const uint32_t n = st->place.n_node;
    for (uint32_t k = 0; k < n; k++) {
        for (uint32_t l = 0; l < s->n_layer; l++) {
            const fg_layer_part y = take_part(a, st, s->attn[l] == FG_ATTN_LIGHTNING, k);
            if (st->part != NULL) st->part[(size_t)l * n + k] = y;
        }
        if (n > 1) a->used = fg_round_up(a->used, NODE_BYTES);
        st->end[k] = a->used;
    }
}

/* Everything but memory. */
static void describe(fg_state *st, const fg_shape *s, uint64_t n_ctx, fg_kv_type kv,
                     const fg_place *place)
{
    static const fg_place one = {
        .n_node = 1, .weight = 1, .node = {{.weight = 1}}, .n_deal = 1, .n_dealt = {1}};
    *st = (fg_state){
        .n_ctx = n_ctx,
        .n_pos = fg_round_up(n_ctx, ROW_STEP),
        .kv_type = kv,
        .d_head = s->d_head,
        .n_kv_head = s->n_kv_head,
        .place = place == NULL ? one : *place,
    };
    st->place.seat = NULL;
    st->span = st->place.n_node == 1 && st->n_pos != 0 ? st->n_pos : FG_ATTN_SPAN;
    fg_place_share(&st->place, s->n_head, 1, &st->heads);
    const uint64_t n_span = (st->n_pos + st->span - 1) / st->span;
    for (uint32_t k = 0; k < st->place.n_node && n_span > 0; k++) {
        st->n_whole[k] = fg_place_n_dealt(&st->place, k, (n_span - 1) * s->n_kv_head);
    }
}

fg_status fg_state_size(const fg_shape *s, uint64_t n_ctx, fg_kv_type kv, const fg_place *place,
                        uint64_t *bytes, fg_err *err)
{
    fg_state st;
    if (n_ctx > s->n_ctx_max) {
        return fg_fail(err, FG_ELIMIT, "context: %llu positions, expected at most %llu",
                       (unsigned long long)n_ctx, (unsigned long long)s->n_ctx_max);
    }
    describe(&st, s, n_ctx, kv, place);
    arena a = {0};
    lay_out(&a, &st, s);
    *bytes = a.used;
    if (!a.overflow) return FG_OK;
    return fg_fail(err, FG_ELIMIT, "context: %llu positions, expected a state below 2^62 bytes",
                   (unsigned long long)n_ctx);
}

/* The mapping is backed on touch, so a state that cannot fit would only die later. */
static fg_status check_room(const fg_state *st, fg_err *err)
{
    fg_room room;
    fg_room_read(&room, "");
    if (st->bytes <= room.bytes) return FG_OK;
    return fg_fail(err, FG_ELIMIT,
                   "context: %s positions need %s, expected at most the %s of memory available "
                   "within %s; try a smaller context",
                   fg_text_count(st->n_ctx).s, fg_text_memory((double)st->bytes).s,
                   fg_text_memory((double)room.bytes).s, room.by);
}

/* One run of bytes a node. */
static fg_status bind(const fg_state *st, fg_err *err)
{
    const fg_place *p = &st->place;
    fg_owned range[FG_MAX_NODE];
    if (p->topo == NULL || (p->n_node == 1 && fg_topo_n_node(p->topo) == 1)) return FG_OK;
    const long page = sysconf(_SC_PAGESIZE);
    for (uint32_t k = 0; k < p->n_node; k++) { /* the mapping ends with a whole page */
        const uint64_t end = page > 0 ? fg_round_up(st->end[k], (uint64_t)page) : st->end[k];
        range[k] = (fg_owned){k == 0 ? 0 : st->end[k - 1], end, k};
    }
    const fg_status code = fg_place_bind(p, st->map, range, p->n_node, err);
    return p->numa == FG_NUMA_STRICT ? code : FG_OK;
}

static fg_status fill(fg_state *st, const fg_shape *s, fg_err *err)
{
    FG_TRY(fg_state_size(s, st->n_ctx, st->kv_type, &st->place, &st->bytes, err));
    FG_TRY(check_room(st, err));
    st->part = fg_mem_zalloc_array((size_t)s->n_layer * st->place.n_node, sizeof *st->part);
    st->map = fg_mem_map((size_t)st->bytes);
    if (st->part == NULL || st->map == NULL) {
        return fg_fail(err, FG_ENOMEM,
                       "sequence state: no room for %s positions, expected %s of memory; try a "
                       "smaller context",
                       fg_text_count(st->n_ctx).s, fg_text_memory((double)st->bytes).s);
    }
#ifdef MADV_HUGEPAGE
    /* A token reads all of it once and would walk the page table for each 4 KiB.  A head's first
     * tokens take a huge page each, hence not where all is small. */
    if (st->bytes >= HUGE_PAGES_FROM) (void)madvise(st->map, (size_t)st->bytes, MADV_HUGEPAGE);
#endif
    arena a = {st->map, 0, false};
    lay_out(&a, st, s);
    return bind(st, err);
}

fg_status fg_state_create(fg_state **out, const fg_shape *s, uint64_t n_ctx, fg_kv_type kv,
                          const fg_place *place, fg_err *err)
{
    *out = NULL;
    if (n_ctx < 1) return fg_fail(err, FG_EINVAL, "context: 0 positions, expected at least 1");
    fg_state *st = fg_mem_zalloc(sizeof *st);
    if (st == NULL) return fg_fail_nomem(err, "sequence state");
    describe(st, s, n_ctx, kv, place);
    const fg_status code = fill(st, s, err);
    if (code != FG_OK) {
        fg_state_destroy(&st);
        return code;
    }
    fg_state_wrote(st, 0);
    *out = st;
    return FG_OK;
}

void fg_state_destroy(fg_state **st)
{
    if (*st == NULL) return;
    if ((*st)->device != NULL) (*st)->device->ops->detach((*st)->device, *st);
    fg_mem_unmap((*st)->map, (size_t)(*st)->bytes);
    fg_mem_free((*st)->part);
    fg_mem_free(*st);
    *st = NULL;
}

fg_state_light fg_state_head(const fg_state *st, uint32_t l, uint64_t head)
{
    uint32_t k = 0;
    while (head >= st->heads.begin[k + 1]) k++;
    const fg_layer_part *y = &st->part[(size_t)l * st->place.n_node + k];
    const uint64_t d = st->d_head, at = head - st->heads.begin[k];
    return (fg_state_light){y->s + at * d * d, y->kt + at * d * FG_LIGHT_CHUNK,
                            y->v + at * FG_LIGHT_CHUNK * d};
}

fg_state_cache fg_state_rows(const fg_state *st, uint32_t l, uint64_t head, uint64_t pos)
{
    const uint64_t span = pos / st->span, d = st->d_head, size = fg_kv_bytes(st->kv_type);
    uint64_t at;
    const uint32_t k = fg_place_deal(&st->place, span * st->n_kv_head + head, &at);
    const fg_layer_part *y = &st->part[(size_t)l * st->place.n_node + k];
    uint64_t row = at * st->span;
    if (at > st->n_whole[k]) { /* behind a last span, all of which are equally short */
        const uint64_t last = st->n_pos - span * st->span;
        row = st->n_whole[k] * st->span + (at - st->n_whole[k]) * last;
    }
    row += pos % st->span;
    uint64_t key = row / 16 * 16 * d, value = row * d;
    if (st->kv_type == FG_KV_INT8) {
        key += row % 16 * 4;
        value = row / 4 * 4 * d + row % 4;
    } else {
        key += row % 16;
    }
    return (fg_state_cache){
        .k = (uint8_t *)y->k_cache + key * size,
        .v = (uint8_t *)y->v_cache + value * size,
        .k_scale = y->k_scale == NULL ? NULL : y->k_scale + row,
        .v_scale = y->v_scale == NULL ? NULL : y->v_scale + row,
    };
}

fg_status fg_state_audit(const fg_state *st, uint32_t node, fg_audit *out, fg_err *err)
{
    const uint64_t from = node == 0 ? 0 : st->end[node - 1];
    return fg_place_audit(&st->place, (const uint8_t *)st->map + from, st->end[node] - from, out,
                          err);
}

bool fg_take_heads(fg_worker *w, uint32_t n_head, uint64_t times, fg_heads *out)
{
    const fg_place *p = fg_team_place(w->team);
    fg_share heads, items;
    fg_place_share(p, n_head, 1, &heads);
    for (uint32_t k = 0; k <= p->n_node; k++) items.begin[k] = heads.begin[k] * times;
    const fg_work_row row = {0, &items};
    const fg_work_list list = {&row, 1, false};
    fg_work_piece at;
    if (!fg_worker_take(w, &list, &at)) return false;
    const uint64_t from = items.begin[at.node];
    *out = (fg_heads){at.begin - from, at.end - from, heads.begin[at.node],
                      heads.begin[at.node + 1] - heads.begin[at.node]};
    return true;
}

void fg_state_reset(fg_state *st)
{
    (void)madvise(st->map, (size_t)st->bytes, MADV_DONTNEED); /* anonymous: zero on next touch */
    st->pos = st->folded = 0;
    fg_state_wrote(st, 0);
}

fg_status fg_state_fetch(fg_state *st, fg_err *err)
{
    return st->device == NULL ? FG_OK : st->device->ops->fetch(st->device, st, err);
}

void fg_state_wrote(fg_state *st, uint64_t from)
{
    st->light_here = true;
    st->light_there = false;
    st->rows_here = UINT64_MAX;
    if (st->rows_there > from) st->rows_there = from;
}

void fg_state_reset_to(fg_state *st, uint64_t pos)
{
    st->pos = st->folded = 0;
    fg_state_advance(st, pos);
    st->light_here = st->light_there = true; /* nobody cares what it is */
    st->rows_here = st->rows_there = UINT64_MAX;
}

void fg_state_advance(fg_state *st, uint64_t n)
{
    if (n == 0) return;
    st->pos += n;
    const uint64_t chunk = (st->pos - 1) / FG_LIGHT_CHUNK * FG_LIGHT_CHUNK;
    if (chunk > st->folded) st->folded = chunk;
}

bool fg_state_rewind(fg_state *st, uint64_t pos)
{
    if (pos < st->folded || pos > st->pos) return false;
    st->pos = pos;
    return true;
}

void fg_state_copy_cache(fg_state *to, const fg_state *from, const fg_shape *s, uint64_t pos)
{
    const uint64_t row = (uint64_t)s->d_head * fg_kv_bytes(from->kv_type);
    const uint64_t n = fg_round_up(pos, 16); /* keys lie in blocks of 16, values of 4 */
    const uint64_t step = to->span < from->span ? to->span : from->span;
    for (uint32_t l = 0; l < s->n_layer; l++) {
        for (uint64_t h = 0; s->attn[l] == FG_ATTN_SOFTMAX && h < s->n_kv_head; h++) {
            for (uint64_t p = 0; p < n; p += step) {
                const uint64_t m = n - p < step ? n - p : step;
                const fg_state_cache a = fg_state_rows(from, l, h, p),
                                     b = fg_state_rows(to, l, h, p);
                memcpy(b.k, a.k, (size_t)(m * row));
                memcpy(b.v, a.v, (size_t)(m * row));
                if (a.k_scale == NULL) continue;
                memcpy(b.k_scale, a.k_scale, (size_t)m * sizeof(float));
                memcpy(b.v_scale, a.v_scale, (size_t)m * sizeof(float));
            }
        }
    }
}
