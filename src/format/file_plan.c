/* SPDX-License-Identifier: MIT
 *
 * The parts in the order of FORMAT.md 3: slots, metadata in key order, data region, chunk table,
 * directory. Placement of the data region (FORMAT.md 5.2) is here and nowhere else:
 * fg_directory_place, which the directory's decoder calls too.
 */
#include "src/format/file_plan.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/format/layout.h"
#include "src/format/parts.h"
#include "src/format/seal.h"
#include "src/format/seal_text.h"

typedef unsigned long long ull; /* for %llu */

/* --- placement of the data region --- */

static uint64_t page_up(uint64_t x)
{
    return fg_round_up(x, FG_PAGE_BYTES);
}

static uint64_t own_panel_bytes(const fg_tensor *t)
{
    return fg_panel_bytes((fg_qtype)t->type, t->n_col);
}

/* Reserves the padded row scales of t at pos; returns the position after them. */
static uint64_t place_scales(fg_tensor *t, uint64_t pos)
{
    const fg_qtype_info *info = fg_qtype_get(t->type);
    assert(info != NULL);
    t->scale_offset = info->quantized ? pos : 0;
    if (!info->quantized) return pos;
    return pos + page_up(FG_PANEL_ROWS * sizeof(float) * fg_n_panel(t->n_row));
}

static uint64_t place_dense(fg_tensor *t, uint64_t pos)
{
    if (fg_role_is_vector((fg_role)t->role)) {
        t->scale_offset = t->panel_stride = 0;
        t->offset = pos;
        return page_up(pos + sizeof(float) * t->n_col);
    }
    pos = place_scales(t, pos);
    t->offset = pos;
    t->panel_stride = own_panel_bytes(t);
    return page_up(pos + fg_n_panel(t->n_row) * t->panel_stride);
}

/* gate, up, down = t[0..2].  Panels of gate and up alternate, because their rows are used
 * together: one pass over one stream gives both factors of silu(gate) * up. */
static uint64_t place_expert(fg_tensor *t, uint64_t pos)
{
    fg_tensor *gate = &t[0], *up = &t[1], *down = &t[2];
    pos = place_scales(gate, pos);
    pos = place_scales(up, pos);
    pos = place_scales(down, pos);
    gate->panel_stride = up->panel_stride = own_panel_bytes(gate) + own_panel_bytes(up);
    gate->offset = pos;
    up->offset = pos + own_panel_bytes(gate);
    pos = page_up(pos + fg_n_panel(gate->n_row) * gate->panel_stride);
    down->offset = pos;
    down->panel_stride = own_panel_bytes(down);
    return page_up(pos + fg_n_panel(down->n_row) * down->panel_stride);
}

bool fg_directory_place(fg_directory *d, uint64_t data_offset, uint64_t *data_end)
{
    const fg_shape *s = &d->shape;
    fg_tensor *t = d->tensor;
    /* One tensor is below 2^46 bytes (limits of fg_shape), so checking after each group of
     * tensors keeps every sum below 2^61. */
    uint64_t pos = place_dense(t++, fg_round_up(data_offset, FG_HUGE_PAGE_BYTES));
    for (uint32_t l = 0; l < s->n_layer; l++) {
        pos = fg_round_up(pos, FG_HUGE_PAGE_BYTES);
        d->dense[l].offset = pos;
        for (int i = 0; i < FG_LAYER_TENSORS; i++) pos = place_dense(t++, pos);
        d->dense[l].bytes = pos - d->dense[l].offset;
        for (uint32_t e = 0; e < s->n_expert; e++, t += 3) {
            fg_extent *x = &d->expert[(uint64_t)l * s->n_expert + e];
            x->offset = pos;
            pos = place_expert(t, pos);
            x->bytes = pos - x->offset;
            if (pos > FG_MAX_FILE_BYTES) return false;
        }
    }
    pos = place_dense(t++, pos);
    pos = place_dense(t++, fg_round_up(pos, FG_HUGE_PAGE_BYTES));
    assert(t == d->tensor + d->n_tensor);
    *data_end = pos;
    return pos <= FG_MAX_FILE_BYTES;
}

uint64_t fg_tensor_begin(const fg_tensor *t)
{
    return t->scale_offset != 0 ? t->scale_offset : t->offset;
}

uint64_t fg_tensor_end(const fg_tensor *t)
{
    if (fg_role_is_vector((fg_role)t->role)) return t->offset + sizeof(float) * t->n_col;
    return t->offset + (fg_n_panel(t->n_row) - 1) * t->panel_stride + own_panel_bytes(t);
}

/* --- types --- */

static fg_status check_rotation(const fg_tensor *t, const char *file, fg_err *err)
{
    const bool alike = t->role != FG_ROLE_EXPERT_UP || t->rotated == t[-1].rotated;
    if (alike && (!t->rotated || fg_tensor_may_rotate(t))) return FG_OK;
    char name[96];
    fg_role_name((fg_role)t->role, t->layer, t->expert, name);
    return fg_fail(err, FG_EINVAL, "%s: rotation chosen for %s, %llu columns of %s, expected %s",
                   file, name, (ull)t->n_col, fg_qtype_get(t->type)->name,
                   alike ? "it for a quantized, multiplied matrix of whole blocks of 128 columns"
                         : "it for both gate and up of an expert or for neither");
}

/* Oldest reader that understands the planned file. */
static uint32_t read_version(const fg_directory *d, uint32_t n_part)
{
    uint32_t version = n_part > 1 ? FG_SPLIT_READ_VERSION : 1;
    for (uint64_t i = 0; i < d->n_tensor; i++) {
        const uint32_t least = fg_tensor_read_version(&d->tensor[i]);
        if (least > version) version = least;
    }
    return version;
}

static fg_status choose_types(fg_directory *d, const fg_file_spec *spec, const char *file,
                              fg_err *err)
{
    for (uint64_t i = 0; i < d->n_tensor; i++) {
        fg_tensor *t = &d->tensor[i];
        fg_order_at(&d->shape, i, t);
        t->type = FG_TYPE_F32;
        t->err_rms = t->err_max_row = NAN;
        const bool fixed = fg_role_is_vector((fg_role)t->role) || t->role == FG_ROLE_ROUTER;
        if (!fixed) {
            const fg_tensor_choice c =
                spec->choose(spec->ctx, (fg_role)t->role, t->layer, t->expert);
            t->type = (uint32_t)c.type;
            if (fg_qtype_has_table(t->type)) t->lut = c.lut;
            t->rotated = c.rotate;
        }
        if (t->type == FG_TYPE_F32) t->err_rms = t->err_max_row = 0.0f;
        if (fg_qtype_get(t->type) == NULL ||
            (fg_qtype_has_table(t->type) && !fg_lut_is_valid(&t->lut))) {
            char name[96];
            fg_role_name((fg_role)t->role, t->layer, t->expert, name);
            return fg_fail(err, FG_EINVAL,
                           "%s: type %u or its code table chosen for %s, expected a valid one",
                           file, t->type, name);
        }
        FG_TRY(check_rotation(t, file, err));
    }
    return FG_OK;
}

/* --- metadata --- */

static int by_key(const void *a, const void *b)
{
    return strcmp(((const fg_meta_entry *)a)->key, ((const fg_meta_entry *)b)->key);
}

static fg_status fail_size(const char *file, fg_err *err)
{
    return fg_fail(err, FG_ELIMIT, "%s: more than 2^59 bytes, expected a smaller model", file);
}

/* Keys and sizes, in key order. */
static fg_status take_meta(fg_directory *d, const fg_file_spec *spec, const char *file, fg_err *err)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < d->n_meta; i++) {
        const fg_meta own = {FG_SEAL_KEY, NULL, 0};
        const fg_meta *m = i < spec->n_meta ? &spec->meta[i] : &own;
        if (!fg_meta_key_is_valid(m->key)) {
            return fg_fail(err, FG_EINVAL,
                           "%s: bad metadata key, expected 1 to 255 bytes of printable ASCII",
                           file);
        }
        memcpy(d->meta[i].key, m->key, strlen(m->key)); /* the rest is zero */
        d->meta[i].bytes = m->bytes;
        if (!fg_add_u64(sum, m->bytes, &sum) || sum > FG_MAX_FILE_BYTES / 2) {
            return fail_size(file, err);
        }
    }
    if (d->n_meta > 1) qsort(d->meta, d->n_meta, sizeof *d->meta, by_key);
    for (uint32_t i = 1; i < d->n_meta; i++) {
        if (by_key(&d->meta[i - 1], &d->meta[i]) != 0) continue;
        return fg_fail(err, FG_EINVAL, "%s: metadata %s twice, expected it once", file,
                       d->meta[i].key);
    }
    return FG_OK;
}

/* --- the whole --- */

/* Blobs stand after the header slots. */
static uint64_t place_meta(fg_directory *d)
{
    uint64_t pos = FG_N_SLOT * FG_SLOT_BYTES;
    for (uint32_t i = 0; i < d->n_meta; i++) {
        d->meta[i].offset = pos;
        pos = fg_round_up(pos + d->meta[i].bytes, FG_META_ALIGN);
    }
    return pos;
}

/* The length of the text of SHA-256 hashes, which is known when everything but offsets is: how many
 * bytes the data have does not depend on where they begin. */
static bool size_seal(fg_directory *d)
{
    uint64_t end;
    if (!fg_directory_place(d, 0, &end)) return false;
    for (uint32_t i = 0; i < d->n_meta; i++) {
        if (strcmp(d->meta[i].key, FG_SEAL_KEY) == 0)
            d->meta[i].bytes = fg_seal_text_bytes(d, fg_slot_chunks(end));
    }
    return true;
}

static fg_status lay_out(fg_file_plan *p, const fg_file_spec *spec, const char *file, fg_err *err)
{
    fg_directory *d = &p->dir;
    fg_slot *s = &p->slot;
    uint64_t data_end;
    FG_TRY(take_meta(d, spec, file, err));
    FG_TRY(choose_types(d, spec, file, err));
    if (spec->sealed && !size_seal(d)) return fail_size(file, err);
    s->data_offset = fg_round_up(place_meta(d), FG_HUGE_PAGE_BYTES);
    if (!fg_directory_place(d, s->data_offset, &data_end) || data_end > FG_MAX_FILE_BYTES / 2) {
        return fail_size(file, err);
    }
    s->n_part = spec->n_part > 1 ? spec->n_part : 0;
    s->read_version = read_version(d, s->n_part);
    s->write_version =
        s->read_version > FG_WRITE_VERSION ? s->read_version : (uint32_t)FG_WRITE_VERSION;
    s->generation = 1;
    s->data_bytes = data_end - s->data_offset;
    s->n_chunk = fg_slot_chunks(s->data_bytes);
    s->table_offset = fg_round_up(data_end, FG_META_ALIGN);
    s->dir_offset = fg_round_up(s->table_offset + 8 * s->n_chunk, FG_META_ALIGN);
    s->dir_bytes = fg_directory_bytes(&d->shape, d->n_meta);
    s->file_bytes = s->dir_offset + s->dir_bytes;
    return FG_OK;
}

fg_status fg_file_plan_make(fg_file_plan **out, const fg_file_spec *spec, const char *name,
                            fg_err *err)
{
    *out = NULL;
    FG_TRY(fg_shape_check(spec->shape, name, err));
    if (spec->n_part > FG_MAX_PART) {
        return fg_fail(err, FG_EINVAL, "%s: split into %u parts, expected at most %u", name,
                       spec->n_part, (unsigned)FG_MAX_PART);
    }
    const size_t n_meta = spec->n_meta + spec->sealed;
    if (n_meta > FG_MAX_META) {
        return fg_fail(err, FG_ELIMIT, "%s: %zu metadata entries, expected at most %u", name,
                       n_meta, (unsigned)FG_MAX_META);
    }
    fg_file_plan *p = fg_mem_zalloc(sizeof *p);
    if (p == NULL) return fg_fail_nomem(err, name);
    fg_status st = fg_directory_init(&p->dir, spec->shape, (uint32_t)n_meta, name, err);
    if (st == FG_OK) st = lay_out(p, spec, name, err);
    if (st != FG_OK) fg_file_plan_destroy(&p);
    *out = p;
    return st;
}

void fg_file_plan_destroy(fg_file_plan **p)
{
    if (*p == NULL) return;
    fg_directory_fini(&(*p)->dir);
    fg_mem_free(*p);
    *p = NULL;
}

/* --- questions --- */

const fg_shape *fg_file_plan_shape(const fg_file_plan *p)
{
    return &p->dir.shape;
}

uint64_t fg_file_plan_n_tensor(const fg_file_plan *p)
{
    return p->dir.n_tensor;
}

const fg_tensor *fg_file_plan_tensor(const fg_file_plan *p, uint64_t idx)
{
    assert(idx < p->dir.n_tensor);
    return &p->dir.tensor[idx];
}

void fg_file_plan_sums(const fg_file_plan *p, uint64_t *n_weight, uint64_t *bytes)
{
    *n_weight = *bytes = 0;
    for (uint64_t i = 0; i < p->dir.n_tensor; i++) {
        const fg_tensor *t = &p->dir.tensor[i];
        *n_weight += t->n_row * t->n_col;
        *bytes += fg_tensor_bytes(t);
    }
}

uint64_t fg_file_plan_place(const fg_file_plan *p, uint64_t idx)
{
    if (idx == 0) return p->slot.data_offset;
    if (idx == p->dir.n_tensor) return p->slot.data_offset + p->slot.data_bytes;
    const fg_tensor *t = &p->dir.tensor[idx];
    return t->expert == FG_NO_LAYER
               ? fg_tensor_begin(t)
               : p->dir.expert[(uint64_t)t->layer * p->dir.shape.n_expert + t->expert].offset;
}

uint64_t fg_file_plan_data_offset(const fg_file_plan *p)
{
    return p->slot.data_offset;
}

uint64_t fg_file_plan_data_bytes(const fg_file_plan *p)
{
    return p->slot.data_bytes;
}

uint64_t fg_file_plan_file_bytes(const fg_file_plan *p)
{
    return p->slot.file_bytes;
}

uint32_t fg_file_plan_n_part(const fg_file_plan *p)
{
    return p->slot.n_part == 0 ? 1 : p->slot.n_part;
}

uint64_t fg_file_plan_share(const fg_file_plan *p, uint32_t part, uint64_t from, uint64_t to)
{
    const fg_parts parts = {.n = fg_file_plan_n_part(p), .dir = &p->dir};
    return fg_parts_share(&parts, part, from, to);
}
