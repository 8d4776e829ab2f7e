/* SPDX-License-Identifier: MIT */
#include "src/model/mark.h"

#include <string.h>

#include "src/base/mem.h"

static uint64_t layer_floats(const fg_shape *s, uint64_t pos)
{
    const uint64_t d = s->d_head;
    return (uint64_t)s->n_head * (d * d + 2 * d * fg_mark_tail(pos));
}

static uint64_t n_lightning(const fg_shape *s)
{
    uint64_t n = 0;
    for (uint32_t l = 0; l < s->n_layer; l++) n += s->attn[l] == FG_ATTN_LIGHTNING;
    return n;
}

/* The lightning layer with this number among them. */
static uint32_t layer_of(const fg_shape *s, uint64_t index)
{
    uint32_t l = 0;
    while (s->attn[l] != FG_ATTN_LIGHTNING || index-- > 0) l++;
    return l;
}

uint64_t fg_mark_bytes(const fg_shape *s, uint64_t pos)
{
    return n_lightning(s) * layer_floats(s, pos) * sizeof(float);
}

/* One head of one layer, to or from a mark. */
typedef struct job {
    const fg_model *m;
    const fg_state *st;
    const fg_mark *mark;
    bool restore;
} job;

static void copy(bool restore, float *mark, float *state, size_t n)
{
    memcpy(restore ? state : mark, restore ? mark : state, n * sizeof(float));
}

static void copy_head(const job *j, uint32_t l, uint64_t index, uint64_t h)
{
    const fg_shape *p = j->m->shape;
    const size_t d = p->d_head, c = FG_LIGHT_CHUNK, tail = (size_t)fg_mark_tail(j->mark->pos);
    const fg_state_light y = fg_state_head(j->st, l, h);
    float *base = (float *)j->mark->map + index * layer_floats(p, j->mark->pos);
    float *to = base + h * d * d, *rows = base + p->n_head * d * d + h * 2 * d * tail;
    copy(j->restore, to, y.s, d * d);
    if (!j->restore && j->mark->pos == j->st->folded + c) {
        j->m->k.light_fold(d, y.kt, y.v, j->m->layers[l].decay + h * (c + 1), to);
    }
    for (size_t e = 0; e < d; e++) copy(j->restore, rows + e * tail, y.kt + e * c, tail);
    copy(j->restore, rows + d * tail, y.v, tail * d);
}

static void copy_heads(fg_worker *w, void *arg)
{
    const job *j = arg;
    const fg_shape *p = j->m->shape;
    fg_heads at;
    while (fg_take_heads(w, p->n_head, n_lightning(p), &at)) {
        for (uint64_t i = at.begin; i < at.end; i++) {
            const uint64_t index = i / at.n_head;
            copy_head(j, layer_of(p, index), index, at.first + i % at.n_head);
        }
    }
}

static fg_status make_room(fg_mark *mark, uint64_t bytes, fg_err *err)
{
    if (bytes <= mark->bytes) return FG_OK;
    fg_mark_fini(mark);
    mark->map = fg_mem_map((size_t)bytes);
    if (mark->map == NULL) {
        return fg_fail(err, FG_ENOMEM, "mark: no %llu bytes, expected memory",
                       (unsigned long long)bytes);
    }
    mark->bytes = bytes;
    return FG_OK;
}

fg_status fg_mark_reserve(fg_mark *mark, const fg_shape *s, fg_err *err)
{
    return make_room(mark, fg_mark_bytes(s, FG_LIGHT_CHUNK - 1), err);
}

fg_status fg_mark_take(fg_mark *mark, fg_team *team, const fg_model *m, fg_state *st, fg_err *err)
{
    FG_TRY(fg_state_fetch(st, err));
    FG_TRY(make_room(mark, fg_mark_bytes(m->shape, st->pos), err));
    mark->pos = st->pos;
    job j = {m, st, mark, false};
    fg_team_run(team, copy_heads, &j);
    return FG_OK;
}

void fg_mark_restore(const fg_mark *mark, fg_team *team, const fg_model *m, fg_state *st)
{
    job j = {m, st, mark, true};
    fg_team_run(team, copy_heads, &j);
    st->pos = mark->pos;
    st->folded = mark->pos - fg_mark_tail(mark->pos);
    st->light_here = true;
    st->light_there = false;
}

void fg_mark_fini(fg_mark *mark)
{
    fg_mem_unmap(mark->map, (size_t)mark->bytes);
    *mark = (fg_mark){0};
}
