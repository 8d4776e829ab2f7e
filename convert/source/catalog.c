/* SPDX-License-Identifier: MIT
 *
 * A fused expert tensor becomes one piece for each matrix of each expert, so that everything after
 * the plan knows plain row-major matrices only.
 */
#include "convert/source/catalog.h"

#include <stdio.h>
#include <string.h>

#include "convert/source/hf_config.h"
#include "src/base/io.h"
#include "src/base/mem.h"

#define CONFIG_NAME "config.json"

void fg_catalog_fini(fg_catalog *p)
{
    fg_hf_fini(&p->ckpt);
    fg_mem_free(p->piece);
    *p = (fg_catalog){0};
}

static fg_status read_config(const char *dir, fg_shape *shape, fg_err *err)
{
    if (!fg_io_is_dir(dir)) {
        return fg_fail(err, FG_EIO, "%s: not a folder, expected a checkpoint folder", dir);
    }
    char *path = fg_io_join(dir, CONFIG_NAME);
    if (path == NULL) return fg_fail_nomem(err, dir);
    const fg_status st = fg_hf_config_load(shape, path, NULL, NULL, err);
    fg_mem_free(path);
    return st;
}

/* "[2, 3]" for messages; always terminated. */
static void print_dims(char *buf, size_t size, const uint64_t *dim, uint32_t n)
{
    size_t at = (size_t)snprintf(buf, size, "[");
    for (uint32_t i = 0; i < n && at < size; i++) {
        at += (size_t)snprintf(buf + at, size - at, "%s%llu", i == 0 ? "" : ", ",
                               (unsigned long long)dim[i]);
    }
    if (at < size) (void)snprintf(buf + at, size - at, "]");
}

static uint32_t wanted_dims(const fg_shape *s, const fg_name *name, uint64_t *dim)
{
    uint64_t n_row, n_col;
    fg_role_dims(name->role, s, &n_row, &n_col);
    if (name->kind != FG_NAME_ONE) {
        dim[0] = s->n_expert;
        dim[1] = name->kind == FG_NAME_GATE_UP ? 2 * n_row : n_row;
        dim[2] = n_col;
        return 3;
    }
    if (fg_role_is_vector(name->role)) {
        dim[0] = n_col;
        return 1;
    }
    dim[0] = n_row;
    dim[1] = n_col;
    return 2;
}

static fg_status check_tensor(const fg_catalog *p, const fg_st_shard *shard, const fg_st_tensor *t,
                              const fg_name *name, fg_err *err)
{
    uint64_t want[3];
    const uint32_t n = wanted_dims(&p->shape, name, want);
    if (t->dtype == FG_ST_OTHER) {
        return fg_fail(err, FG_ENOTSUP, "%s: tensor %.128s: dtype %s, expected BF16, F16 or F32",
                       shard->path, t->name, t->dtype_text);
    }
    if (t->n_dim == n && memcmp(t->dim, want, n * sizeof *want) == 0) return FG_OK;
    char got_text[192], want_text[80];
    print_dims(got_text, sizeof got_text, t->dim, t->n_dim);
    print_dims(want_text, sizeof want_text, want, n);
    return fg_fail(err, FG_ESHAPE, "%s: tensor %.128s: shape %s, expected %s", shard->path, t->name,
                   got_text, want_text);
}

static void put_piece(fg_catalog *p, const fg_name *name, fg_role role, uint32_t expert,
                      uint32_t shard, const fg_st_tensor *t, uint64_t at, uint64_t bytes)
{
    fg_piece *piece = &p->piece[fg_weight_index(&p->shape, role, name->layer, expert)];
    p->source_bytes += bytes - piece->bytes; /* what was supposed before */
    *piece = (fg_piece){t->offset + at, bytes, shard, t->dtype};
}

/* The slices of one tensor; its shape has been checked, so no product overflows. */
static void put_tensor(fg_catalog *p, const fg_name *name, uint32_t shard, const fg_st_tensor *t)
{
    if (name->kind == FG_NAME_ONE) {
        put_piece(p, name, name->role, name->expert, shard, t, 0, t->bytes);
        return;
    }
    const bool pair = name->kind == FG_NAME_GATE_UP;
    const uint64_t each = t->bytes / p->shape.n_expert, slice = pair ? each / 2 : each;
    for (uint32_t e = 0; e < p->shape.n_expert; e++) {
        put_piece(p, name, name->role, e, shard, t, e * each, slice);
        if (pair) put_piece(p, name, FG_ROLE_EXPERT_UP, e, shard, t, e * each + slice, slice);
    }
}

static fg_status place_shard(fg_catalog *p, size_t s, fg_err *err)
{
    const fg_st_shard *shard = &p->ckpt.shard[s];
    for (size_t i = 0; i < shard->n_tensor; i++) {
        const fg_st_tensor *t = &shard->tensor[i];
        const fg_name name = fg_name_parse(t->name);
        if (name.kind == FG_NAME_SKIP) continue;
        FG_TRY(check_tensor(p, shard, t, &name, err));
        put_tensor(p, &name, (uint32_t)s, t);
    }
    return FG_OK;
}

fg_status fg_catalog_take(fg_catalog *p, size_t s, fg_st_shard *shard, fg_err *err)
{
    FG_TRY(fg_hf_take(&p->ckpt, s, shard, err));
    return place_shard(p, s, err);
}

/* A tensor as the shape and the release's habits have it. */
static void suppose_tensor(fg_catalog *p, const fg_name *name, uint32_t shard)
{
    const fg_st_dtype dtype = name->role == FG_ROLE_ROUTER ? FG_ST_F32 : FG_ST_BF16;
    fg_st_tensor t = {.dtype = (uint8_t)dtype, .bytes = fg_st_dtype_bytes(dtype)};
    uint64_t dim[3];
    const uint32_t n = wanted_dims(&p->shape, name, dim);
    for (uint32_t i = 0; i < n; i++) t.bytes *= dim[i]; /* fg_shape bounds it */
    put_tensor(p, name, shard, &t);
}

/* The index must name every weight once. */
static fg_status locate_weights(fg_catalog *p, fg_name_set *set, const char *dir, fg_err *err)
{
    const fg_hf_index *x = &p->ckpt.index;
    for (size_t i = 0; i < x->n_entry; i++) {
        const fg_hf_entry *e = &x->entry[i];
        fg_name name;
        FG_TRY(fg_name_set_claim(set, e->name, p->ckpt.shard[e->shard].path, &name, err));
        if (name.kind != FG_NAME_SKIP) suppose_tensor(p, &name, e->shard);
    }
    p->n_skipped = set->n_skipped;
    return fg_name_set_complete(set, dir, err);
}

static fg_status open_plan(fg_catalog *p, const char *dir, fg_hf_presence presence, fg_err *err)
{
    FG_TRY(read_config(dir, &p->shape, err));
    FG_TRY(fg_hf_open(&p->ckpt, dir, presence, err));
    p->n_weight = fg_weight_count(&p->shape);
    p->piece = fg_mem_zalloc_array(p->n_weight, sizeof *p->piece);
    if (p->piece == NULL) return fg_fail_nomem(err, dir);
    fg_name_set set;
    FG_TRY(fg_name_set_init(&set, &p->shape, err));
    const fg_status st = locate_weights(p, &set, dir, err);
    fg_name_set_fini(&set);
    if (st != FG_OK) return st;
    for (size_t s = 0; s < p->ckpt.n_shard; s++) {
        if (fg_hf_is_known(&p->ckpt, s)) FG_TRY(place_shard(p, s, err));
    }
    return FG_OK;
}

fg_status fg_catalog_open(fg_catalog *p, const char *dir, fg_hf_presence presence, fg_err *err)
{
    *p = (fg_catalog){0};
    const fg_status st = open_plan(p, dir, presence, err);
    if (st != FG_OK) fg_catalog_fini(p);
    return st;
}

static fg_status check_names(const fg_hf_index *x, const fg_shape *shape, const char *dir,
                             uint64_t *n_skipped, fg_err *err)
{
    fg_name_set set;
    FG_TRY(fg_name_set_init(&set, shape, err));
    fg_status st = FG_OK;
    for (size_t i = 0; i < x->n_entry && st == FG_OK; i++) {
        fg_name name;
        st =
            fg_name_set_claim(&set, x->entry[i].name, x->shard_name[x->entry[i].shard], &name, err);
    }
    if (st == FG_OK) st = fg_name_set_complete(&set, dir, err);
    if (n_skipped != NULL) *n_skipped = set.n_skipped;
    fg_name_set_fini(&set);
    return st;
}

fg_status fg_catalog_check_names(const char *dir, fg_shape *shape, uint64_t *n_tensor,
                                 uint64_t *n_shard, uint64_t *n_skipped, fg_err *err)
{
    FG_TRY(read_config(dir, shape, err));
    fg_hf_index x;
    FG_TRY(fg_hf_index_read(&x, dir, err));
    const fg_status st = check_names(&x, shape, dir, n_skipped, err);
    if (n_tensor != NULL) *n_tensor = x.n_entry;
    if (n_shard != NULL) *n_shard = x.n_shard;
    fg_hf_index_fini(&x);
    return st;
}
