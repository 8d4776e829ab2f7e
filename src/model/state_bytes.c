/* SPDX-License-Identifier: MIT */
#include "src/model/state_bytes.h"

#include <string.h>

static uint64_t n_layer_of(const fg_shape *s, fg_attn_kind kind)
{
    uint64_t n = 0;
    for (uint32_t l = 0; l < s->n_layer; l++) n += s->attn[l] == kind;
    return n;
}

/* The layer with this number among those of its kind. */
static uint32_t layer_of(const fg_shape *s, fg_attn_kind kind, uint64_t index)
{
    uint32_t l = 0;
    while (s->attn[l] != kind || index-- > 0) l++;
    return l;
}

static uint64_t scale_bytes(fg_kv_type kv) /* of a row and head, key and value together */
{
    return kv == FG_KV_INT8 ? 2 * sizeof(float) : 0;
}

uint64_t fg_state_light_bytes(const fg_shape *s)
{
    const uint64_t d = s->d_head;
    return n_layer_of(s, FG_ATTN_LIGHTNING) * s->n_head * d * d * sizeof(float);
}

uint64_t fg_state_tail_bytes(const fg_shape *s)
{
    return n_layer_of(s, FG_ATTN_LIGHTNING) * s->n_head * 2 * s->d_head * sizeof(float);
}

uint64_t fg_state_row_bytes(const fg_shape *s, fg_kv_type kv)
{
    return n_layer_of(s, FG_ATTN_SOFTMAX) * s->n_kv_head *
           (2 * (uint64_t)s->d_head * fg_kv_bytes(kv) + scale_bytes(kv));
}

uint64_t fg_state_image_bytes(const fg_shape *s, fg_kv_type kv, uint64_t pos)
{
    const uint64_t n = pos % FG_STATE_BLOCK;
    return fg_state_light_bytes(s) + n * (fg_state_tail_bytes(s) + fg_state_row_bytes(s, kv));
}

/* Bytes of one of a state's items, and where they are in the caller's memory. */
typedef struct mover {
    const fg_state *st;
    const fg_shape *s;
    uint64_t first, n; /* positions of the tail */
    bool put;
    uint8_t *buf;
} mover;

static void move(mover *m, void *state, size_t n)
{
    memcpy(m->put ? state : m->buf, m->put ? m->buf : state, n);
    m->buf += n;
}

static void move_light(mover *m, uint64_t item, uint64_t at, size_t n)
{
    const uint32_t l = layer_of(m->s, FG_ATTN_LIGHTNING, item / m->s->n_head);
    move(m, (uint8_t *)fg_state_head(m->st, l, item % m->s->n_head).s + at, n);
}

/* keys [d][n], of which memory has FG_LIGHT_CHUNK a row; values [n][d] */
static void move_tail(mover *m, uint64_t item, uint64_t at, size_t n)
{
    const uint32_t l = layer_of(m->s, FG_ATTN_LIGHTNING, item / m->s->n_head);
    const fg_state_light y = fg_state_head(m->st, l, item % m->s->n_head);
    const uint64_t row = m->n * sizeof(float), keys = m->s->d_head * row;
    while (n > 0 && at < keys) {
        const uint64_t rest = row - at % row;
        const size_t k = n < rest ? n : (size_t)rest;
        move(m, (uint8_t *)(y.kt + at / row * FG_LIGHT_CHUNK) + at % row, k);
        at += k;
        n -= k;
    }
    if (n > 0) move(m, (uint8_t *)y.v + (at - keys), n);
}

/* Byte `at` of an item of rows, where it is in memory. */
static uint8_t *row_byte(const mover *m, uint32_t l, uint64_t head, uint64_t at)
{
    const fg_kv_type kv = m->st->kv_type;
    const uint64_t d = m->s->d_head, size = fg_kv_bytes(kv), row = d * size, part = m->n * row;
    const bool scale = at >= 2 * part, value = scale ? at - 2 * part >= m->n * 4 : at >= part;
    const uint64_t in = scale ? (at - 2 * part) % (m->n * 4) : at % part;
    const uint64_t r = scale ? in / 4 : in / row;
    const fg_state_cache c = fg_state_rows(m->st, l, head, m->first + r);
    if (scale) return (uint8_t *)(value ? c.v_scale : c.k_scale) + in % 4;
    const uint64_t e = in % row / size;
    const uint64_t index = value ? fg_state_value_at(kv, e) : fg_state_key_at(kv, e);
    return (uint8_t *)(value ? c.v : c.k) + index * size + in % row % size;
}

/* A few rows, hence byte by byte. */
static void move_rows(mover *m, uint64_t item, uint64_t at, size_t n)
{
    const uint32_t l = layer_of(m->s, FG_ATTN_SOFTMAX, item / m->s->n_kv_head);
    for (; n > 0; n--, at++) move(m, row_byte(m, l, item % m->s->n_kv_head, at), 1);
}

static void move_image(mover *m, uint64_t offset, size_t n)
{
    const fg_shape *s = m->s;
    const uint64_t d = s->d_head, light = n_layer_of(s, FG_ATTN_LIGHTNING) * s->n_head,
                   soft = n_layer_of(s, FG_ATTN_SOFTMAX) * s->n_kv_head;
    const struct {
        void (*move)(mover *m, uint64_t item, uint64_t at, size_t n);
        uint64_t n_item, bytes;
    } part[] = {
        {move_light, light, d * d * sizeof(float)},
        {move_tail, light, m->n * 2 * d * sizeof(float)},
        {move_rows, soft,
         m->n * (2 * d * fg_kv_bytes(m->st->kv_type) + scale_bytes(m->st->kv_type))},
    };
    for (size_t k = 0; k < sizeof part / sizeof part[0]; k++) {
        const uint64_t bytes = part[k].bytes, all = part[k].n_item * bytes;
        for (; n > 0 && offset < all;) {
            const uint64_t rest = bytes - offset % bytes;
            const size_t now = n < rest ? n : (size_t)rest;
            part[k].move(m, offset / bytes, offset % bytes, now);
            offset += now;
            n -= now;
        }
        if (n > 0) offset -= all;
    }
}

void fg_state_image_get(const fg_state *st, const fg_shape *s, uint64_t pos, uint64_t offset,
                        void *to, size_t n)
{
    const uint64_t tail = pos % FG_STATE_BLOCK;
    mover m = {st, s, pos - tail, tail, false, to};
    move_image(&m, offset, n);
}

void fg_state_image_put(fg_state *st, const fg_shape *s, uint64_t pos, uint64_t offset,
                        const void *from, size_t n)
{
    const uint64_t tail = pos % FG_STATE_BLOCK;
    mover m = {st, s, pos - tail, tail, true, (uint8_t *)(uintptr_t)from}; /* only read */
    move_image(&m, offset, n);
}

size_t fg_state_block_runs(const fg_shape *s, fg_kv_type kv)
{
    return (size_t)n_layer_of(s, FG_ATTN_SOFTMAX) * s->n_kv_head * (kv == FG_KV_INT8 ? 4 : 2);
}

void fg_state_block(const fg_state *st, const fg_shape *s, uint64_t block, struct iovec *run)
{
    const size_t rows = (size_t)FG_STATE_BLOCK * s->d_head * fg_kv_bytes(st->kv_type);
    for (uint32_t l = 0; l < s->n_layer; l++) {
        for (uint32_t h = 0; s->attn[l] == FG_ATTN_SOFTMAX && h < s->n_kv_head; h++) {
            const fg_state_cache c = fg_state_rows(st, l, h, block * FG_STATE_BLOCK);
            *run++ = (struct iovec){c.k, rows};
            *run++ = (struct iovec){c.v, rows};
            if (c.k_scale == NULL) continue;
            *run++ = (struct iovec){c.k_scale, FG_STATE_BLOCK * sizeof(float)};
            *run++ = (struct iovec){c.v_scale, FG_STATE_BLOCK * sizeof(float)};
        }
    }
}
