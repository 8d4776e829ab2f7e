/* SPDX-License-Identifier: MIT
 *
 * The directory: encode, decode, check.  Its length is a function of the shape and the number of
 * metadata entries and is compared before anything is allocated, so that a small hostile file
 * cannot ask for a large allocation.  Tensor positions are redundant by design: they are
 * recomputed (fg_directory_place) and compared, which rules out overlaps, gaps, misalignment and
 * positions outside the file in one step, and tells got from expected in the message.
 */
#include "src/format/layout.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/fp.h"
#include "src/base/mem.h"

typedef unsigned long long ull; /* for %llu */

/* --- memory --- */

fg_status fg_directory_init(fg_directory *d, const fg_shape *shape, uint32_t n_meta,
                            const char *path, fg_err *err)
{
    *d = (fg_directory){0};
    d->shape = *shape;
    d->n_meta = n_meta;
    d->n_tensor = fg_order_count(shape);
    d->meta = fg_mem_zalloc_array(n_meta, sizeof *d->meta);
    d->dense = fg_mem_zalloc_array(shape->n_layer, sizeof *d->dense);
    d->expert = fg_mem_zalloc_array((size_t)shape->n_layer * shape->n_expert, sizeof *d->expert);
    d->tensor = fg_mem_zalloc_array((size_t)d->n_tensor, sizeof *d->tensor);
    if (d->meta == NULL || d->dense == NULL || d->expert == NULL || d->tensor == NULL) {
        fg_directory_fini(d);
        return fg_fail_nomem(err, path);
    }
    return FG_OK;
}

void fg_directory_fini(fg_directory *d)
{
    fg_mem_free(d->meta);
    fg_mem_free(d->dense);
    fg_mem_free(d->expert);
    fg_mem_free(d->tensor);
    *d = (fg_directory){0};
}

/* --- encoding --- */

static uint64_t attn_bytes(const fg_shape *s)
{
    return fg_round_up(s->n_layer, 16); /* keeps the records after it aligned */
}

uint64_t fg_directory_bytes(const fg_shape *s, uint32_t n_meta)
{
    return FG_DIR_HEAD_BYTES + attn_bytes(s) + (uint64_t)n_meta * FG_META_RECORD_BYTES +
           s->n_layer * (1 + (uint64_t)s->n_expert) * FG_EXTENT_RECORD_BYTES +
           fg_order_count(s) * FG_TENSOR_RECORD_BYTES;
}

static void put_zeros(fg_buf *b, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) fg_buf_u8(b, 0);
}

static void put_head(fg_buf *b, const fg_directory *d)
{
    const fg_shape *s = &d->shape;
    const uint32_t counts[] = {s->n_layer,  s->d_model,  s->n_head, s->n_kv_head, s->d_head,
                               s->d_rotary, s->n_expert, s->n_used, s->d_ff,      s->n_vocab};
    const double reals[] = {s->rope_theta,     s->norm_eps,     s->inner_norm_eps,
                            s->alpha_softmax,  s->beta_softmax, s->alpha_lightning,
                            s->beta_lightning, s->alpha_mlp,    s->beta_mlp};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) fg_buf_u32(b, counts[i]);
    fg_buf_u64(b, s->n_ctx_max);
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) fg_buf_f64(b, reals[i]);
    fg_buf_u32(b, s->postnorm);
    fg_buf_u32(b, s->slope_form);
    fg_buf_u32(b, d->n_meta);
    fg_buf_u32(b, 0); /* reserved */
    fg_buf_u64(b, d->n_tensor);
    put_zeros(b, 16); /* 8 reserved, 8 unused */
    fg_buf_put(b, s->attn, s->n_layer);
    put_zeros(b, attn_bytes(s) - s->n_layer);
}

static void put_extent(fg_buf *b, const fg_extent *x)
{
    fg_buf_u64(b, x->offset);
    fg_buf_u64(b, x->bytes);
}

static void put_tensor(fg_buf *b, const fg_tensor *t)
{
    fg_buf_u32(b, t->role);
    fg_buf_u32(b, t->layer);
    fg_buf_u32(b, t->expert);
    fg_buf_u32(b, t->type);
    fg_buf_u64(b, t->n_row);
    fg_buf_u64(b, t->n_col);
    fg_buf_u64(b, t->offset);
    fg_buf_u64(b, t->panel_stride);
    fg_buf_u64(b, t->scale_offset);
    fg_buf_put(b, t->lut.v, sizeof t->lut.v);
    fg_buf_u32(b, fg_f32_bits(t->err_rms));
    fg_buf_u32(b, fg_f32_bits(t->err_max_row));
    fg_buf_u32(b, t->rotated ? FG_TENSOR_ROTATED : 0);
    fg_buf_u32(b, 0); /* reserved */
    fg_buf_u32(b, fg_f32_bits(t->peak));
    fg_buf_u32(b, fg_f32_bits(t->err_out));
}

void fg_directory_encode(const fg_directory *d, fg_buf *b)
{
    put_head(b, d);
    for (uint32_t i = 0; i < d->n_meta; i++) {
        const fg_meta_entry *m = &d->meta[i];
        fg_buf_put(b, m->key, sizeof m->key);
        fg_buf_u64(b, m->offset);
        fg_buf_u64(b, m->bytes);
        fg_buf_u64(b, m->hash);
        fg_buf_u64(b, 0); /* reserved */
    }
    for (uint32_t l = 0; l < d->shape.n_layer; l++) {
        put_extent(b, &d->dense[l]);
        for (uint32_t e = 0; e < d->shape.n_expert; e++) {
            put_extent(b, &d->expert[(uint64_t)l * d->shape.n_expert + e]);
        }
    }
    for (uint64_t i = 0; i < d->n_tensor; i++) put_tensor(b, &d->tensor[i]);
}

/* --- decoding --- */

typedef struct decoder {
    fg_cursor c;
    const fg_slot *slot;
    const char *path;
    fg_err *err;
} decoder;

static fg_status reserved(const decoder *k, const char *what)
{
    return fg_fail(k->err, FG_EFORMAT, "%s: non-zero reserved bytes in %s, expected zeros", k->path,
                   what);
}

static fg_status get_head(decoder *k, fg_shape *s, uint32_t *n_meta)
{
    fg_cursor *c = &k->c;
    const size_t total = c->left;
    uint32_t *const counts[] = {&s->n_layer,  &s->d_model,  &s->n_head, &s->n_kv_head, &s->d_head,
                                &s->d_rotary, &s->n_expert, &s->n_used, &s->d_ff,      &s->n_vocab};
    double *const reals[] = {&s->rope_theta,     &s->norm_eps,     &s->inner_norm_eps,
                             &s->alpha_softmax,  &s->beta_softmax, &s->alpha_lightning,
                             &s->beta_lightning, &s->alpha_mlp,    &s->beta_mlp};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) *counts[i] = fg_cursor_u32(c);
    s->n_ctx_max = fg_cursor_u64(c);
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) *reals[i] = fg_cursor_f64(c);
    s->postnorm = fg_cursor_u32(c);
    s->slope_form = fg_cursor_u32(c);
    *n_meta = fg_cursor_u32(c);
    uint64_t zero = fg_cursor_u32(c);
    const uint64_t n_tensor = fg_cursor_u64(c);
    zero |= fg_cursor_u64(c);
    (void)fg_cursor_u64(c); /* unused */
    if (c->bad) {
        return fg_fail(k->err, FG_EFORMAT, "%s: directory of %zu bytes, expected at least %u",
                       k->path, total, (unsigned)FG_DIR_HEAD_BYTES);
    }
    if (zero != 0) return reserved(k, "the directory");
    if (s->n_layer < 1 || s->n_layer > FG_MAX_LAYER) {
        return fg_fail(k->err, FG_ESHAPE, "%s: layers = %u, expected 1 to %u", k->path, s->n_layer,
                       (unsigned)FG_MAX_LAYER);
    }
    const size_t attn = (size_t)attn_bytes(s);
    const uint8_t *p = fg_cursor_bytes(c, attn);
    if (p == NULL) {
        return fg_fail(k->err, FG_EFORMAT, "%s: directory of %zu bytes, expected at least %llu",
                       k->path, total, (ull)FG_DIR_HEAD_BYTES + attn);
    }
    memcpy(s->attn, p, s->n_layer);
    for (size_t i = s->n_layer; i < attn; i++) {
        if (p[i] != 0) return reserved(k, "the attention kinds");
    }
    FG_TRY(fg_shape_check(s, k->path, k->err));
    if (*n_meta > FG_MAX_META) {
        return fg_fail(k->err, FG_ELIMIT, "%s: %u metadata entries, expected at most %u", k->path,
                       *n_meta, (unsigned)FG_MAX_META);
    }
    if (n_tensor != fg_order_count(s)) {
        return fg_fail(k->err, FG_EFORMAT, "%s: %llu tensors, expected %llu for its shape", k->path,
                       (ull)n_tensor, (ull)fg_order_count(s));
    }
    if (total != fg_directory_bytes(s, *n_meta)) {
        return fg_fail(k->err, FG_EFORMAT, "%s: directory of %zu bytes, expected %llu", k->path,
                       total, (ull)fg_directory_bytes(s, *n_meta));
    }
    return FG_OK;
}

bool fg_meta_key_is_valid(const char *key)
{
    const size_t n = strlen(key);
    for (size_t i = 0; i < n; i++) {
        if (key[i] < 0x20 || key[i] > 0x7e) return false;
    }
    return n >= 1 && n < FG_META_KEY_BYTES;
}

static fg_status get_meta(decoder *k, fg_meta_entry *m, const fg_meta_entry *prev)
{
    const uint8_t *key = fg_cursor_bytes(&k->c, FG_META_KEY_BYTES);
    m->offset = fg_cursor_u64(&k->c);
    m->bytes = fg_cursor_u64(&k->c);
    m->hash = fg_cursor_u64(&k->c);
    const uint64_t zero = fg_cursor_u64(&k->c);
    if (zero != 0) return reserved(k, "a metadata entry");
    /* length was checked, so key != NULL */
    if (key[FG_META_KEY_BYTES - 1] == 0) memcpy(m->key, key, FG_META_KEY_BYTES);
    bool good = fg_meta_key_is_valid(m->key);
    for (size_t i = strlen(m->key); good && i < FG_META_KEY_BYTES; i++) good = m->key[i] == 0;
    if (!good) {
        return fg_fail(k->err, FG_EFORMAT,
                       "%s: bad metadata key, expected 1 to 255 bytes of ASCII and zeros", k->path);
    }
    if (prev != NULL && strcmp(prev->key, m->key) >= 0) {
        return fg_fail(k->err, FG_EFORMAT,
                       "%s: metadata key %s after %s, expected ascending unique keys", k->path,
                       m->key, prev->key);
    }
    const uint64_t limit = k->slot->file_bytes;
    if (m->offset < FG_N_SLOT * FG_SLOT_BYTES || m->offset % FG_META_ALIGN != 0 ||
        m->offset > limit || m->bytes > limit - m->offset) {
        return fg_fail(k->err, FG_EFORMAT,
                       "%s: metadata %s of %llu bytes at offset %llu, expected a multiple of %u "
                       "within the file's %llu bytes",
                       k->path, m->key, (ull)m->bytes, (ull)m->offset, (unsigned)FG_META_ALIGN,
                       (ull)limit);
    }
    return FG_OK;
}

typedef struct region {
    uint64_t begin, end;
    const char *name;
} region;

static int region_compare(const void *a, const void *b)
{
    const region *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Metadata, directory, chunk table and data region: no two share a byte. */
static fg_status check_regions(const decoder *k, const fg_directory *d)
{
    const fg_slot *s = k->slot;
    region *r = fg_mem_zalloc_array((size_t)d->n_meta + 3, sizeof *r);
    if (r == NULL) return fg_fail_nomem(k->err, k->path);
    size_t n = 0;
    r[n++] = (region){s->dir_offset, s->dir_offset + s->dir_bytes, "the directory"};
    r[n++] = (region){s->table_offset, s->table_offset + 8 * s->n_chunk, "the chunk table"};
    r[n++] = (region){s->data_offset, s->data_offset + s->data_bytes, "the data region"};
    for (uint32_t i = 0; i < d->n_meta; i++) {
        const fg_meta_entry *m = &d->meta[i];
        if (m->bytes != 0) r[n++] = (region){m->offset, m->offset + m->bytes, m->key};
    }
    qsort(r, n, sizeof *r, region_compare);
    fg_status st = FG_OK;
    for (size_t i = 1; i < n && st == FG_OK; i++) {
        if (r[i].begin >= r[i - 1].end) continue;
        st = fg_fail(k->err, FG_EFORMAT,
                     "%s: %s begins at offset %llu, expected not before the end of %s at %llu",
                     k->path, r[i].name, (ull)r[i].begin, r[i - 1].name, (ull)r[i - 1].end);
    }
    fg_mem_free(r);
    return st;
}

static fg_status get_extent(decoder *k, const fg_extent *want, uint32_t layer, uint32_t expert)
{
    const uint64_t offset = fg_cursor_u64(&k->c), bytes = fg_cursor_u64(&k->c);
    if (offset == want->offset && bytes == want->bytes) return FG_OK;
    char what[32] = "the dense part";
    if (expert != FG_NO_LAYER) (void)snprintf(what, sizeof what, "expert %u", expert);
    return fg_fail(k->err, FG_EFORMAT,
                   "%s: %s of layer %u has %llu bytes at offset %llu, expected %llu at %llu",
                   k->path, what, layer, (ull)bytes, (ull)offset, (ull)want->bytes,
                   (ull)want->offset);
}

static bool is_error_value(float x)
{
    return isnan(x) || (x >= 0.0f && !isinf(x));
}

/* The parts of a record that do not depend on its place: identity, type, table, errors. */
static fg_status check_tensor(const decoder *k, const fg_shape *s, uint64_t idx, const fg_tensor *t)
{
    static const fg_lut no_lut;
    fg_tensor want = {0};
    char name[96];
    fg_order_at(s, idx, &want);
    fg_role_name((fg_role)want.role, want.layer, want.expert, name);
    if (t->role != want.role || t->layer != want.layer || t->expert != want.expert) {
        char got[96];
        fg_role_name((fg_role)t->role, t->layer, t->expert, got);
        return fg_fail(k->err, FG_EFORMAT, "%s: tensor %llu is %s, expected %s", k->path, (ull)idx,
                       got, name);
    }
    if (t->n_row != want.n_row || t->n_col != want.n_col) {
        return fg_fail(k->err, FG_ESHAPE, "%s: %s is %llu x %llu, expected %llu x %llu", k->path,
                       name, (ull)t->n_row, (ull)t->n_col, (ull)want.n_row, (ull)want.n_col);
    }
    if (fg_qtype_get(t->type) == NULL) {
        return fg_fail(k->err, FG_EFORMAT, "%s: %s has weight type %u, expected a known type",
                       k->path, name, t->type);
    }
    if (t->type != FG_TYPE_F32 &&
        (fg_role_is_vector((fg_role)t->role) || t->role == FG_ROLE_ROUTER)) {
        return fg_fail(k->err, FG_EFORMAT, "%s: %s is stored as %s, expected f32", k->path, name,
                       fg_qtype_get(t->type)->name);
    }
    const bool has_table = fg_qtype_has_table(t->type);
    if (has_table ? !fg_lut_is_valid(&t->lut) : memcmp(&t->lut, &no_lut, sizeof no_lut) != 0) {
        return fg_fail(k->err, FG_EFORMAT, "%s: %s has a bad code table, expected %s", k->path,
                       name, has_table ? "16 ascending values of -32 to 31" : "16 zeros");
    }
    if (!is_error_value(t->err_rms) || !is_error_value(t->err_max_row) ||
        !is_error_value(t->peak) || !is_error_value(t->err_out)) {
        return fg_fail(k->err, FG_EFORMAT,
                       "%s: %s has quantization errors %g, %g and %g, peak %g, expected finite "
                       "values not below 0",
                       k->path, name, (double)t->err_rms, (double)t->err_max_row,
                       (double)t->err_out, (double)t->peak);
    }
    return FG_OK;
}

static fg_status check_version(const decoder *k, const fg_tensor *t)
{
    char name[96];
    const uint32_t got = k->slot->read_version, least = fg_tensor_read_version(t);
    if (got >= least) return FG_OK;
    fg_role_name((fg_role)t->role, t->layer, t->expert, name);
    return fg_fail(k->err, FG_EFORMAT,
                   "%s: %s is %s in a file of read version %u, expected %u at least", k->path, name,
                   t->rotated ? "rotated" : fg_qtype_get(t->type)->name, got, least);
}

/* prev: the record before, NULL for the first. */
static fg_status check_rotation(const decoder *k, const fg_tensor *t, const fg_tensor *prev)
{
    const char *got = NULL, *wanted = NULL;
    if (t->rotated && !fg_tensor_may_rotate(t)) {
        got = "marked as rotated";
        wanted = "it for a quantized, multiplied matrix of whole blocks of 128 columns only";
    } else if (t->role == FG_ROLE_EXPERT_UP && t->rotated != prev->rotated) {
        got = t->rotated ? "rotated and its gate is not" : "not rotated and its gate is";
        wanted = "both or neither";
    }
    if (got == NULL) return FG_OK;
    char name[96];
    fg_role_name((fg_role)t->role, t->layer, t->expert, name);
    return fg_fail(k->err, FG_EFORMAT, "%s: %s is %s, expected %s", k->path, name, got, wanted);
}

/* What the record says of the position; compared with the placement later. */
typedef struct position {
    uint64_t offset, panel_stride, scale_offset;
} position;

static fg_status get_tensor(decoder *k, const fg_shape *s, uint64_t idx, fg_tensor *t, position *p)
{
    fg_cursor *c = &k->c;
    t->role = fg_cursor_u32(c);
    t->layer = fg_cursor_u32(c);
    t->expert = fg_cursor_u32(c);
    t->type = fg_cursor_u32(c);
    t->n_row = fg_cursor_u64(c);
    t->n_col = fg_cursor_u64(c);
    p->offset = fg_cursor_u64(c);
    p->panel_stride = fg_cursor_u64(c);
    p->scale_offset = fg_cursor_u64(c);
    memcpy(t->lut.v, fg_cursor_bytes(c, sizeof t->lut.v), sizeof t->lut.v);
    t->err_rms = fg_f32_from_bits(fg_cursor_u32(c));
    t->err_max_row = fg_f32_from_bits(fg_cursor_u32(c));
    const uint32_t flags = fg_cursor_u32(c), zero = fg_cursor_u32(c);
    t->rotated = (flags & FG_TENSOR_ROTATED) != 0;
    t->peak = fg_f32_from_bits(fg_cursor_u32(c));
    t->err_out = fg_f32_from_bits(fg_cursor_u32(c));
    if (zero != 0 || (flags & ~(uint32_t)FG_TENSOR_ROTATED) != 0) {
        return reserved(k, "a tensor record");
    }
    FG_TRY(check_tensor(k, s, idx, t));
    FG_TRY(check_rotation(k, t, idx == 0 ? NULL : t - 1));
    return check_version(k, t);
}

static fg_status check_positions(const decoder *k, fg_directory *d, const position *said,
                                 uint64_t data_end)
{
    for (uint64_t i = 0; i < d->n_tensor; i++) {
        const fg_tensor *t = &d->tensor[i];
        if (said[i].offset == t->offset && said[i].panel_stride == t->panel_stride &&
            said[i].scale_offset == t->scale_offset) {
            continue;
        }
        char name[96];
        fg_role_name((fg_role)t->role, t->layer, t->expert, name);
        return fg_fail(k->err, FG_EFORMAT,
                       "%s: %s has offset %llu, panel stride %llu, scale offset %llu, expected "
                       "%llu, %llu, %llu",
                       k->path, name, (ull)said[i].offset, (ull)said[i].panel_stride,
                       (ull)said[i].scale_offset, (ull)t->offset, (ull)t->panel_stride,
                       (ull)t->scale_offset);
    }
    const uint64_t bytes = data_end - k->slot->data_offset;
    if (bytes != k->slot->data_bytes) {
        return fg_fail(k->err, FG_EFORMAT, "%s: data region of %llu bytes, expected %llu", k->path,
                       (ull)k->slot->data_bytes, (ull)bytes);
    }
    return FG_OK;
}

static fg_status get_body(decoder *k, fg_directory *d, position *said)
{
    const fg_shape *s = &d->shape;
    uint64_t data_end;
    for (uint32_t i = 0; i < d->n_meta; i++) {
        FG_TRY(get_meta(k, &d->meta[i], i == 0 ? NULL : &d->meta[i - 1]));
    }
    FG_TRY(check_regions(k, d));
    /* Placement needs the types, which come after the extents: tensors first. */
    decoder extents = *k;
    (void)fg_cursor_bytes(&k->c, s->n_layer * (1 + (size_t)s->n_expert) * FG_EXTENT_RECORD_BYTES);
    for (uint64_t i = 0; i < d->n_tensor; i++) {
        FG_TRY(get_tensor(k, s, i, &d->tensor[i], &said[i]));
    }
    if (!fg_directory_place(d, k->slot->data_offset, &data_end)) {
        return fg_fail(k->err, FG_ELIMIT, "%s: tensors of more than 2^60 bytes, expected fewer",
                       k->path);
    }
    FG_TRY(check_positions(k, d, said, data_end));
    for (uint32_t l = 0; l < s->n_layer; l++) {
        FG_TRY(get_extent(&extents, &d->dense[l], l, FG_NO_LAYER));
        for (uint32_t e = 0; e < s->n_expert; e++) {
            FG_TRY(get_extent(&extents, &d->expert[(uint64_t)l * s->n_expert + e], l, e));
        }
    }
    return FG_OK;
}

fg_status fg_directory_decode(fg_directory *d, const uint8_t *bytes, size_t n, const fg_slot *slot,
                              const char *path, fg_err *err)
{
    decoder k = {fg_cursor_make(bytes, n), slot, path, err};
    fg_shape shape = {0};
    uint32_t n_meta;
    position *said = NULL;
    FG_TRY(get_head(&k, &shape, &n_meta));
    FG_TRY(fg_directory_init(d, &shape, n_meta, path, err));
    fg_status st = FG_OK;
    said = fg_mem_zalloc_array((size_t)d->n_tensor, sizeof *said);
    if (said == NULL) {
        st = fg_fail_nomem(err, path);
    } else {
        st = get_body(&k, d, said);
    }
    fg_mem_free(said);
    if (st != FG_OK) fg_directory_fini(d);
    return st;
}
