/* SPDX-License-Identifier: MIT */
#include "src/model/state.h"

#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "simd/kernels.h"
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/sys/room.h"

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

static void lay_out(arena *a, const fg_shape *s, uint64_t n_pos, fg_kv_type kv,
                    fg_layer_state *layers)
{
    const uint64_t d = s->d_head, light = (uint64_t)s->n_head * d;
    const uint64_t size = fg_kv_bytes(kv);
    for (uint32_t l = 0; l < s->n_layer; l++) {
        fg_layer_state y = {0};
        if (s->attn[l] == FG_ATTN_LIGHTNING) {
            y.s = take(a, light, d, sizeof(float));
            y.kt = take(a, light, FG_LIGHT_CHUNK, sizeof(float));
            y.v = take(a, light, FG_LIGHT_CHUNK, sizeof(float));
        } else {
            y.k_cache = take(a, s->n_kv_head * d, n_pos, size);
            y.v_cache = take(a, s->n_kv_head * d, n_pos, size);
            if (kv == FG_KV_INT8) {
                y.k_scale = take(a, s->n_kv_head, n_pos, sizeof(float));
                y.v_scale = take(a, s->n_kv_head, n_pos, sizeof(float));
            }
        }
        if (layers != NULL) layers[l] = y;
    }
}

fg_status fg_state_size(const fg_shape *s, uint64_t n_ctx, fg_kv_type kv, uint64_t *bytes,
                        fg_err *err)
{
    arena a = {0};
    if (n_ctx > s->n_ctx_max) {
        return fg_fail(err, FG_ELIMIT, "context: %llu positions, expected at most %llu",
                       (unsigned long long)n_ctx, (unsigned long long)s->n_ctx_max);
    }
    lay_out(&a, s, fg_round_up(n_ctx, 16), kv, NULL);
    if (a.overflow) {
        return fg_fail(err, FG_ELIMIT, "context: %llu positions, expected a state below 2^62 bytes",
                       (unsigned long long)n_ctx);
    }
    *bytes = a.used;
    return FG_OK;
}

fg_status fg_state_create(fg_state **out, const fg_shape *s, uint64_t n_ctx, fg_kv_type kv,
                          fg_err *err)
{
    *out = NULL;
    if (n_ctx < 1) return fg_fail(err, FG_EINVAL, "context: 0 positions, expected at least 1");
    fg_state *st = fg_mem_zalloc(sizeof *st);
    if (st == NULL) return fg_fail_nomem(err, "sequence state");
    fg_status code = fg_state_size(s, n_ctx, kv, &st->bytes, err);
    if (code != FG_OK) goto fail;
    /* The mapping is backed on touch, so a state that cannot fit would only die later. */
    fg_room room;
    fg_room_read(&room, "");
    if (st->bytes > room.bytes) {
        code = fg_fail(err, FG_ELIMIT,
                       "context: %s positions need %s, expected at most the %s of memory available "
                       "within %s; try a smaller context",
                       fg_text_count(n_ctx).s, fg_text_memory((double)st->bytes).s,
                       fg_text_memory((double)room.bytes).s, room.by);
        goto fail;
    }
    st->n_ctx = n_ctx;
    st->n_pos = fg_round_up(n_ctx, 16);
    st->kv_type = kv;
    st->layers = fg_mem_zalloc_array(s->n_layer, sizeof *st->layers);
    st->map = fg_mem_map((size_t)st->bytes);
    if (st->layers == NULL || st->map == NULL) {
        code = fg_fail(err, FG_ENOMEM,
                       "sequence state: no room for %s positions, expected %s of memory; try a "
                       "smaller context",
                       fg_text_count(n_ctx).s, fg_text_memory((double)st->bytes).s);
        goto fail;
    }
    arena a = {st->map, 0, false};
    lay_out(&a, s, st->n_pos, kv, st->layers);
    *out = st;
    return FG_OK;
fail:
    fg_state_destroy(&st);
    return code;
}

void fg_state_destroy(fg_state **st)
{
    if (*st == NULL) return;
    fg_mem_unmap((*st)->map, (size_t)(*st)->bytes);
    fg_mem_free((*st)->layers);
    fg_mem_free(*st);
    *st = NULL;
}

void fg_state_reset(fg_state *st)
{
    (void)madvise(st->map, (size_t)st->bytes, MADV_DONTNEED); /* anonymous: zero on next touch */
    st->pos = st->folded = 0;
}

void fg_state_reset_to(fg_state *st, uint64_t pos)
{
    st->pos = st->folded = 0;
    fg_state_advance(st, pos);
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

static void copy_rows(void *to, const void *from, uint64_t n_head, uint64_t head_bytes,
                      uint64_t bytes)
{
    for (uint64_t h = 0; h < n_head; h++) {
        memcpy((uint8_t *)to + h * head_bytes, (const uint8_t *)from + h * head_bytes,
               (size_t)bytes);
    }
}

void fg_state_copy_cache(fg_state *to, const fg_state *from, const fg_shape *s, uint64_t pos)
{
    const uint64_t row = (uint64_t)s->d_head * fg_kv_bytes(from->kv_type);
    const uint64_t n = fg_round_up(pos, 16), n_pos = from->n_pos; /* keys lie in blocks of 16 */
    for (uint32_t l = 0; l < s->n_layer; l++) {
        const fg_layer_state *a = &from->layers[l], *b = &to->layers[l];
        if (a->k_cache == NULL) continue;
        copy_rows(b->k_cache, a->k_cache, s->n_kv_head, n_pos * row, n * row);
        copy_rows(b->v_cache, a->v_cache, s->n_kv_head, n_pos * row, n * row);
        if (a->k_scale == NULL) continue;
        copy_rows(b->k_scale, a->k_scale, s->n_kv_head, n_pos * sizeof(float), n * sizeof(float));
        copy_rows(b->v_scale, a->v_scale, s->n_kv_head, n_pos * sizeof(float), n * sizeof(float));
    }
}
