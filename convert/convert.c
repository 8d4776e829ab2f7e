/* SPDX-License-Identifier: MIT
 *
 * One pass over the units (convert_impl.h) in the order of units.c.  Whatever can be refused without reading tensor data (output, recipe,
 * configuration, headers, names, shapes, tokenizer, free space) is refused first, in `prepare` and
 * fg_writer_begin; after that only I/O errors and weights that are not finite can stop the work.
 *
 * Row scales stand before the panels of their unit, so a quantized unit waits in the spool until its
 * last panel is encoded.
 */
#include "convert/convert_impl.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/choose/budget.h"
#include "convert/calib/calib.h"
#include "convert/encode.h"
#include "convert/source/catalog.h"
#include "convert/choose/recipe.h"
#include "convert/spool.h"
#include "quant/linalg.h"
#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/fp.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/format/write/writer.h"
#include "src/sys/disk.h"
#include "src/sys/team.h"
#include "src/text/tokenizer.h"

static const char *const other_inputs[] = {
    "config.json",           "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "generation_config.json",       "chat_template.jinja"};
#define N_OF(a) (sizeof(a) / sizeof(a)[0])

typedef fg_run run;

void fg_run_fini(run *r)
{
    fg_calib_destroy(&r->calib); /* before the file that it maps */
    fg_ids_fini(&r->calib_ids);
    fg_encoder_destroy(&r->encoder);
    fg_shards_fini(&r->source);
    fg_spool_fini(&r->spool);
    fg_team_destroy(&r->team);
    fg_writer_destroy(&r->writer);
    fg_recipe_fini(&r->recipe);
    fg_catalog_fini(&r->plan);
    fg_mem_free(r->hash);
    fg_mem_free(r->row_scale);
    fg_mem_free(r->scale_bytes);
    fg_mem_free(r->unit);
    fg_mem_free(r->supply);
    fg_buf_fini(&r->new_tensor);
}

/* --- before any data is read --- */

/* OUT must be a new or a regular file in an existing folder. */
static fg_status check_output(const char *out, fg_err *err)
{
    struct stat sb;
    if (out[0] == '\0') {
        return fg_fail(err, FG_EINVAL, "output: an empty name, expected a file name");
    }
    if (stat(out, &sb) == 0 && !S_ISREG(sb.st_mode)) {
        return fg_fail(err, FG_EINVAL, "%s: %s, expected a file name", out,
                       S_ISDIR(sb.st_mode) ? "a folder" : "not a regular file");
    }
    const char *slash = strrchr(out, '/');
    if (slash != NULL && slash[1] == '\0') {
        return fg_fail(err, FG_EINVAL, "%s: a folder, expected a file name", out);
    }
    if (slash == NULL || slash == out) return FG_OK;
    char *dir = fg_mem_strndup(out, (size_t)(slash - out));
    if (dir == NULL) return fg_fail_nomem(err, out);
    const bool ok = fg_io_is_dir(dir);
    const fg_status st =
        ok ? FG_OK
           : fg_fail(err, FG_EIO, "%s: no folder %s, expected it to exist; create it", out, dir);
    fg_mem_free(dir);
    return st;
}

static fg_status refuse_same_file(const char *out, const struct stat *out_sb, const char *input,
                                  fg_err *err)
{
    struct stat sb;
    if (stat(input, &sb) != 0 || sb.st_dev != out_sb->st_dev || sb.st_ino != out_sb->st_ino) {
        return FG_OK;
    }
    return fg_fail(err, FG_EINVAL, "%s: the same file as the input %s, expected another name", out,
                   input);
}

static fg_status check_not_input(const run *r, fg_err *err)
{
    struct stat sb;
    const char *out = r->opts->out_path;
    if (stat(out, &sb) != 0) return FG_OK;
    for (size_t s = 0; s < r->plan.ckpt.n_shard; s++) {
        FG_TRY(refuse_same_file(out, &sb, r->plan.ckpt.shard[s].path, err));
    }
    if (r->opts->calib_path != NULL) {
        FG_TRY(refuse_same_file(out, &sb, r->opts->calib_path, err));
    }
    if (r->opts->recipe_path != NULL && !fg_recipe_is_name(r->opts->recipe_path)) {
        FG_TRY(refuse_same_file(out, &sb, r->opts->recipe_path, err));
    }
    if (r->opts->sensitivity_path != NULL) {
        FG_TRY(refuse_same_file(out, &sb, r->opts->sensitivity_path, err));
    }
    for (size_t i = 0; i < N_OF(other_inputs); i++) {
        char *path = fg_io_join(r->opts->src_dir, other_inputs[i]);
        if (path == NULL) return fg_fail_nomem(err, out);
        const fg_status st = refuse_same_file(out, &sb, path, err);
        fg_mem_free(path);
        if (st != FG_OK) return st;
    }
    return FG_OK;
}

/* --- data --- */

uint64_t fg_run_weight(const run *r, const fg_tensor *t)
{
    return fg_weight_index(&r->plan.shape, (fg_role)t->role, t->layer, t->expert);
}

static void note_error(run *r, uint64_t idx)
{
    const double rms = (double)fg_writer_tensor(r->writer, idx)->err_rms;
    if (rms > r->worst_rms) {
        r->worst_rms = rms;
        r->worst_idx = idx;
    }
}

fg_status fg_run_tick(void *ctx, uint64_t n, fg_err *err)
{
    run *r = ctx;
    const fg_convert_opts *o = r->opts;
    r->done_bytes += n;
    if (o->progress == NULL || o->progress(o->ctx, r->done_bytes, r->plan.source_bytes)) {
        return FG_OK;
    }
    return fg_fail(err, FG_ECANCEL, "%s: cancelled after %llu of %llu bytes, expected to finish",
                   o->out_path, (unsigned long long)r->done_bytes,
                   (unsigned long long)r->plan.source_bytes);
}

static fg_status put(void *ctx, uint64_t pos, const void *bytes, uint64_t n, fg_err *err)
{
    static const uint8_t zeros[4096];
    run *r = ctx;
    if (!r->spooling) {
        FG_TRY(fg_writer_pad(r->writer, pos, err));
        return fg_writer_write(r->writer, bytes, n, err);
    }
    while (r->spool_pos < pos) {
        const uint64_t gap = pos - r->spool_pos;
        const uint64_t len = gap < sizeof zeros ? gap : sizeof zeros;
        FG_TRY(fg_spool_append(&r->spool, zeros, len, err));
        r->spool_pos += len;
    }
    r->spool_pos += n;
    return fg_spool_append(&r->spool, bytes, n, err);
}

static fg_status replay_to_writer(void *ctx, const void *bytes, uint64_t n, fg_err *err)
{
    run *r = ctx;
    return fg_writer_write(r->writer, bytes, n, err);
}

static void put_f32_le(uint8_t *dst, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t u = fg_f32_bits(v[i]);
        for (size_t k = 0; k < 4; k++) dst[4 * i + k] = (uint8_t)(u >> (8 * k));
    }
}

static fg_status write_vector(run *r, const fg_tensor *t, fg_err *err)
{
    const uint64_t weight = fg_run_weight(r, t);
    const fg_piece *p = &r->plan.piece[weight];
    const size_t n = (size_t)t->n_col;
    uint8_t *bytes = fg_mem_alloc(n * sizeof(float));
    float *v = fg_mem_alloc(n * sizeof *v);
    fg_status st = bytes == NULL || v == NULL ? fg_fail_nomem(err, "vector") : FG_OK;
    if (st == FG_OK) {
        st = fg_shards_read(&r->source, p->shard, bytes, (size_t)p->bytes, p->offset, err);
    }
    if (st == FG_OK) {
        r->hash[weight] = fg_hash64(bytes, (size_t)p->bytes);
        fg_st_to_f32((fg_st_dtype)p->dtype, bytes, n, v);
        st = fg_encode_check_finite(t, v, n, 0, err);
    }
    if (st == FG_OK) {
        put_f32_le(bytes, v, n);
        st = put(r, t->offset, bytes, n * sizeof(float), err);
    }
    if (st == FG_OK) st = fg_run_tick(r, p->bytes, err);
    fg_mem_free(bytes);
    fg_mem_free(v);
    return st;
}

/* Scales of the group's jobs, in the order of their places, then the spooled panels. */
static fg_status flush_group(run *r, const fg_encode_job *job, size_t n_job, fg_err *err)
{
    r->spooling = false;
    for (size_t m = 0; m < n_job; m++) {
        const fg_tensor *t = job[m].tensor;
        if (t->scale_offset == 0) continue;
        const size_t n = (size_t)(FG_PANEL_ROWS * fg_n_panel(t->n_row));
        put_f32_le(r->scale_bytes, job[m].row_scale, n);
        FG_TRY(put(r, t->scale_offset, r->scale_bytes, n * sizeof(float), err));
    }
    FG_TRY(fg_writer_pad(r->writer, job[0].tensor->offset, err));
    return fg_spool_replay(&r->spool, replay_to_writer, r, err);
}

/* The calibrated inputs of one job, or of a pair with the same inputs. */
static fg_status calibrate(run *r, fg_encode_job *job, size_t n, fg_feedback *f, fg_err *err)
{
    const fg_model_file *view;
    bool has;
    if (r->calib == NULL) return FG_OK;
    FG_TRY(fg_writer_view(r->writer, &view, err)); /* what is written so far can be read */
    FG_TRY(fg_calib_inputs(r->calib, job[0].tensor, &has, f, err));
    for (size_t m = 0; m < n && has; m++) job[m].feedback = f;
    return FG_OK;
}

/* Gate, up and down of an expert. */
static fg_status encode_expert(run *r, fg_encode_job *job, const fg_encode_io *io, fg_err *err)
{
    fg_feedback in, hidden;
    FG_TRY(calibrate(r, job, 2, &in, err));
    FG_TRY(fg_encode(r->encoder, job, 2, io, err));
    if (r->calib != NULL && r->spooling) {
        fg_calib_bind_pair(r->calib, job[0].tensor, job[1].tensor, r->spool.mem, job[0].row_scale,
                           job[1].row_scale);
    }
    FG_TRY(calibrate(r, job + 2, 1, &hidden, err));
    return fg_encode(r->encoder, job + 2, 1, io, err);
}

/* Matrices idx .. idx + n - 1: one, or gate, up and down of an expert. */
static fg_status write_matrices(run *r, uint64_t idx, size_t n, fg_err *err)
{
    fg_encode_job job[FG_WORK_TENSORS] = {{0}};
    uint64_t at = 0, panel_bytes = 0;
    r->spooling = false;
    for (size_t m = 0; m < n; m++) {
        const fg_tensor *t = fg_writer_tensor(r->writer, idx + m);
        job[m].tensor = t;
        job[m].piece = &r->plan.piece[fg_run_weight(r, t)];
        job[m].row_scale = r->row_scale + at;
        at += FG_PANEL_ROWS * fg_n_panel(t->n_row);
        panel_bytes += fg_n_panel(t->n_row) * fg_panel_bytes((fg_qtype)t->type, t->n_col);
        if (t->scale_offset == 0) continue;
        assert(t->scale_offset < job[0].tensor->offset);
        r->spooling = true;
    }
    const bool spooled = r->spooling;
    /* gate and up are run from the spool's memory while down is calibrated */
    r->spool.limit = r->calib != NULL && n > 1 ? FG_CALIB_SPOOL_BYTES : FG_SPOOL_BYTES;
    if (spooled && r->calib != NULL && n > 1 && panel_bytes > FG_CALIB_SPOOL_BYTES / 2) {
        return fg_fail(err, FG_ELIMIT,
                       "layer %u: experts of %llu bytes, expected at most %llu to calibrate",
                       job[0].tensor->layer, (unsigned long long)panel_bytes,
                       (unsigned long long)(FG_CALIB_SPOOL_BYTES / 2));
    }
    if (spooled) {
        r->spool_pos = job[0].tensor->offset;
        FG_TRY(fg_spool_start(&r->spool, panel_bytes + n * FG_PAGE_BYTES, err));
    }
    const fg_encode_io io = {put, fg_run_tick, r};
    fg_feedback in;
    if (n == 1) {
        FG_TRY(calibrate(r, job, 1, &in, err));
        FG_TRY(fg_encode(r->encoder, job, 1, &io, err));
    } else {
        FG_TRY(encode_expert(r, job, &io, err));
    }
    for (size_t m = 0; m < n; m++) {
        r->hash[fg_run_weight(r, job[m].tensor)] = job[m].hash;
        const fg_tensor_error e = {job[m].err_rms, job[m].err_max_row, job[m].err_out, job[m].peak};
        fg_writer_set_error(r->writer, idx + m, &e);
        note_error(r, idx + m);
    }
    if (spooled) FG_TRY(flush_group(r, job, n, err));
    if (r->calib == NULL) return FG_OK;
    const fg_model_file *view;
    FG_TRY(fg_writer_view(r->writer, &view, err));
    return fg_calib_wrote(r->calib, job[n - 1].tensor, err);
}

/* --- checkpoints: what one life of a conversion leaves for the next --- */

/* What is not in the plan or the metadata: which shard has which tensor, and the text to calibrate with;
 * headers of shards are compared one by one as they come (units.c).  Not: threads, places. */
static fg_status source_identity(const run *r, uint64_t *out, fg_err *err)
{
    const fg_hf_index *x = &r->plan.ckpt.index;
    fg_buf b = {0};
    fg_buf_printf(&b, "convert %d\n", FG_CONVERT_VERSION);
    for (size_t i = 0; i < x->n_entry; i++) {
        fg_buf_printf(&b, "%s\n%s\n", x->entry[i].name, x->shard_name[x->entry[i].shard]);
    }
    fg_buf_u8(&b, r->opts->calib_diagonal);
    if (r->opts->calib_path != NULL) fg_buf_put_str(&b, fg_linalg_name()); /* its bits show */
    for (size_t i = 0; i < r->calib_ids.len; i++) fg_buf_u32(&b, r->calib_ids.data[i]);
    if (!b.failed) *out = fg_hash64(b.data, b.len);
    const fg_status st = b.failed ? fg_fail_nomem(err, "identity") : FG_OK;
    fg_buf_fini(&b);
    return st;
}

static fg_status checkpoint(run *r, fg_err *err)
{
    fg_buf b = {0};
    fg_status st = fg_work_put(r, &b, err);
    if (st == FG_OK) st = fg_writer_checkpoint(r->writer, b.data, b.len, err);
    fg_buf_fini(&b);
    FG_TRY(st);
    fg_work_put_done(r);
    return fg_work_delete(r, err);
}

/* Behind a unit: when it is time, when shards become free, and calibrated at the end of each layer, which
 * may have taken long. */
static fg_status save(run *r, const fg_work *u, fg_err *err)
{
    const uint64_t next = u->first + u->n;
    const bool layer_ends =
        next == fg_writer_n_tensor(r->writer) ||
        fg_writer_tensor(r->writer, next)->layer != fg_writer_tensor(r->writer, next - 1)->layer;
    if (!fg_writer_checkpoint_due(r->writer) && !fg_work_can_delete(r) &&
        !(r->calib != NULL && layer_ends)) {
        return FG_OK;
    }
    return checkpoint(r, err);
}

/* The folder that OUT is in; caller frees.  NULL when out of memory. */
static char *out_dir(const run *r)
{
    const char *out = r->opts->out_path, *slash = strrchr(out, '/');
    if (slash == NULL) return fg_mem_strndup(".", 1);
    return fg_mem_strndup(out, slash == out ? 1 : (size_t)(slash - out));
}

fg_status fg_run_space(const run *r, uint64_t *need, uint64_t *free_bytes, fg_err *err)
{
    char *dir = out_dir(r);
    if (dir == NULL) return fg_fail_nomem(err, r->opts->out_path);
    const fg_status st = fg_work_need(r, dir, need, err);
    *free_bytes = fg_disk_free_bytes(dir);
    fg_mem_free(dir);
    return st;
}

static fg_status check_space(const run *r, fg_err *err)
{
    uint64_t need, have;
    FG_TRY(fg_run_space(r, &need, &have, err));
    if (have >= need) return FG_OK;
    return fg_fail(err, FG_EIO,
                   "%s.part: %llu bytes free on its file system, expected %llu; free space or "
                   "choose another folder",
                   r->opts->out_path, (unsigned long long)have, (unsigned long long)need);
}

static fg_status begin_or_resume(run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    uint64_t identity = 0, next;
    FG_TRY(source_identity(r, &identity, err));
    if (o->checkpoint_bytes != 0) {
        fg_writer_checkpoint_every(r->writer, o->checkpoint_bytes, UINT64_MAX);
    }
    fg_writer_reserve(r->writer, o->delete_consumed ? UINT64_MAX : r->reserve);
    FG_TRY(fg_writer_resume(r->writer, identity, fg_work_take, r, &next, err));
    FG_TRY(fg_work_check(r, err));
    if (o->delete_consumed) FG_TRY(check_space(r, err));
    r->resumed_bytes = r->done_bytes;
    if (r->n_taken == 0) return FG_OK;
    for (uint64_t i = 0; i < fg_writer_n_tensor(r->writer); i++) {
        if (fg_writer_is_done(r->writer, i)) note_error(r, i);
    }
    if (o->resumed != NULL) o->resumed(o->ctx, r->done_bytes, r->plan.source_bytes);
    return fg_work_delete(r, err);
}

/* An error line that ends a life says so when the next one will go on. */
static void add_hint(const run *r, fg_err *err)
{
    if (err == NULL || r->writer == NULL || !fg_writer_is_kept(r->writer)) return;
    const size_t n = strlen(err->msg);
    (void)snprintf(err->msg + n, sizeof err->msg - n,
                   "; %.200s.part is kept, the same command continues", r->opts->out_path);
}

static fg_status write_unit(run *r, const fg_work *u, fg_err *err)
{
    const fg_tensor *t = fg_writer_tensor(r->writer, u->first);
    FG_TRY(fg_writer_seek(r->writer, u->first, err));
    if (!fg_role_is_vector((fg_role)t->role)) return write_matrices(r, u->first, u->n, err);
    r->spooling = false;
    FG_TRY(write_vector(r, t, err));
    fg_writer_set_error(r->writer, u->first, &(fg_tensor_error){0});
    return FG_OK;
}

static fg_status write_data(run *r, fg_err *err)
{
    for (;;) {
        size_t i;
        FG_TRY(fg_work_next(r, &i, err));
        if (i == r->n_unit) {
            FG_TRY(fg_work_wait_all(r, err));
            /* parts get their names before OUT does: a kill in between is to be gone on from */
            return r->opts->n_split == 0 || r->new_tensor.len == 0 ? FG_OK : checkpoint(r, err);
        }
        FG_TRY(write_unit(r, &r->unit[i], err));
        fg_work_set_done(r, i);
        FG_TRY(save(r, &r->unit[i], err));
    }
}

/* --- the whole --- */

/* The recipe that a budget gives, in place of one that the caller names. */
static fg_status choose_recipe(run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    fg_budget_opts bo = {o->sensitivity_path, o->target_bpw, o->target_bytes, r->plan.config_bytes};
    fg_buf b = {0};
    fg_status st = fg_run_meta_bytes(r, &bo.meta_bytes, err);
    if (st == FG_OK) st = fg_budget_choose(&b, &r->plan.shape, &bo, err);
    if (st == FG_OK) {
        st = fg_recipe_load_text(&r->recipe, (const char *)b.data, b.len, "budget", err);
    }
    fg_buf_fini(&b);
    return st;
}

static fg_status check_budget(const fg_convert_opts *o, fg_err *err)
{
    const bool target = o->target_bpw != 0.0 || o->target_bytes != 0;
    if (target != (o->sensitivity_path != NULL)) {
        return fg_fail(err, FG_EINVAL, "budget: %s, expected both or none",
                       target ? "a target without a sensitivity file"
                              : "a sensitivity file without a target");
    }
    if (target && (o->type != NULL || o->recipe_path != NULL)) {
        return fg_fail(err, FG_EINVAL, "budget: with a %s, expected to choose all types itself",
                       o->type != NULL ? "type" : "recipe");
    }
    return FG_OK;
}

/* Most bytes of a unit's panels that wait in memory.  Calibration runs gate and up of an expert from there. */
static uint64_t spool_limit(const run *r, const fg_work *u)
{
    return r->opts->calib_path != NULL && u->n > 1 ? FG_CALIB_SPOOL_BYTES : FG_SPOOL_BYTES;
}

/* What buffers and temporary files must hold. */
static void measure(run *r)
{
    for (size_t i = 0; i < r->n_unit; i++) {
        const uint64_t limit = spool_limit(r, &r->unit[i]);
        uint64_t spool = 0;
        for (uint32_t k = 0; k < r->unit[i].n; k++) {
            const fg_tensor *t = fg_writer_tensor(r->writer, r->unit[i].first + k);
            const uint64_t n = FG_PANEL_ROWS * fg_n_panel(t->n_row);
            if (t->n_col > r->max_cols) r->max_cols = t->n_col;
            if (n > r->max_rows) r->max_rows = n;
            spool += fg_n_panel(t->n_row) * fg_panel_bytes((fg_qtype)t->type, t->n_col);
        }
        if (spool > limit && spool - limit > r->reserve) r->reserve = spool - limit;
        if (spool > limit) spool = limit;
        if (spool > r->spool_bytes) r->spool_bytes = spool;
    }
    if (r->opts->calib_path == NULL) return;
    r->reserve += fg_calib_disk_bytes(&r->plan.shape, r->calib_ids.len);
}

static fg_status check_calibration(const run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    if (o->calib_diagonal && o->calib_path == NULL) {
        return fg_fail(err, FG_EINVAL, "calibration: diagonal without a text, expected a text");
    }
    for (uint64_t i = 0; o->calib_path != NULL && i < fg_writer_n_tensor(r->writer); i++) {
        const fg_tensor *t = fg_writer_tensor(r->writer, i);
        if (t->role != FG_ROLE_EMBED && fg_qtype_get(t->type)->quantized) return FG_OK;
    }
    if (o->calib_path == NULL) return FG_OK;
    return fg_fail(
        err, FG_EINVAL,
        "calibration: no quantized matrix in the recipe, expected one; leave the text away");
}

/* Deleting needs a folder that can be written to: better known now. */
static fg_status check_deletable(const run *r, fg_err *err)
{
    const char *dir = r->opts->src_dir;
    if (!r->opts->delete_consumed || access(dir, W_OK) == 0) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: %s, expected a folder where shards can be deleted", dir,
                   strerror(errno));
}

fg_status fg_run_prepare(run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    FG_TRY(check_output(o->out_path, err));
    FG_TRY(check_budget(o, err));
    if (o->sensitivity_path == NULL) {
        FG_TRY(fg_recipe_load(&r->recipe, o->type, o->recipe_path, err));
    }
    FG_TRY(
        fg_catalog_open(&r->plan, o->src_dir, o->wait_for_shards ? FG_HF_LATER : FG_HF_SOME, err));
    FG_TRY(check_deletable(r, err));
    FG_TRY(check_not_input(r, err));
    if (o->sensitivity_path != NULL) FG_TRY(choose_recipe(r, err));
    if (o->calib_path != NULL) {
        FG_TRY(fg_calib_read_text(&r->calib_ids, &r->calib_hash, o->src_dir, o->calib_path, err));
    }
    FG_TRY(fg_recipe_check(&r->recipe, &r->plan.shape, o->recipe_path, err));
    FG_TRY(fg_writer_create(&r->writer, o->out_path, &r->plan.shape, err));
    if (o->n_split > 0) FG_TRY(fg_writer_split(r->writer, o->split_dir, o->n_split, err));
    FG_TRY(fg_run_add_metadata(r, err));
    FG_TRY(fg_writer_plan(r->writer, fg_recipe_choose, &r->recipe, err));
    FG_TRY(check_calibration(r, err));
    FG_TRY(fg_work_create(r, err));
    measure(r);
    return FG_OK;
}

static fg_status allocate(run *r, fg_err *err)
{
    r->hash = fg_mem_zalloc_array((size_t)r->plan.n_weight, sizeof *r->hash);
    r->row_scale =
        fg_mem_zalloc_array((size_t)(FG_WORK_TENSORS * r->max_rows), sizeof *r->row_scale);
    r->scale_bytes = fg_mem_zalloc_array((size_t)r->max_rows, sizeof(float));
    if (r->hash == NULL || r->row_scale == NULL || r->scale_bytes == NULL) {
        return fg_fail_nomem(err, r->opts->out_path);
    }
    fg_shards_init(&r->source, &r->plan.ckpt);
    fg_spool_init(&r->spool, r->opts->out_path, FG_SPOOL_BYTES);
    FG_TRY(fg_team_create(&r->team, r->opts->n_thread, false, err));
    return fg_encoder_create(&r->encoder, r->team, &r->source, r->max_cols, err);
}

static fg_status still_wanted(void *ctx, fg_err *err)
{
    return fg_run_tick(ctx, 0, err);
}

static fg_status begin_calibration(run *r, fg_err *err)
{
    const fg_model_file *view;
    if (r->opts->calib_path == NULL) return FG_OK;
    FG_TRY(fg_writer_view(r->writer, &view, err));
    const fg_calib_opts o = {!r->opts->calib_diagonal, r->opts->out_path, still_wanted, r};
    FG_TRY(fg_calib_create(&r->calib, view, r->team, r->calib_ids.data, r->calib_ids.len, &o, err));
    for (uint64_t i = 0; i < fg_writer_n_tensor(r->writer) && fg_writer_is_done(r->writer, i);
         i++) {
        FG_TRY(fg_calib_skip(r->calib, fg_writer_tensor(r->writer, i), err));
    }
    return FG_OK;
}

static void fill_report(const run *r, uint64_t start_ns, fg_convert_report *out)
{
    *out = (fg_convert_report){
        .source_bytes = r->plan.source_bytes,
        .file_bytes = fg_writer_file_bytes(r->writer),
        .n_tensor = fg_writer_n_tensor(r->writer),
        .n_skipped = r->plan.n_skipped,
        .calib = r->calib == NULL ? (fg_calib_report){0} : fg_calib_get_report(r->calib),
        .worst_rms = r->worst_rms,
        .resumed_bytes = r->resumed_bytes,
        .n_deleted = r->n_deleted,
        .deleted_bytes = r->deleted_bytes,
        .n_left_alone = r->n_left_alone,
    };
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < out->n_tensor; i++) {
        const fg_tensor *t = fg_writer_tensor(r->writer, i);
        out->n_weight += t->n_row * t->n_col;
        bytes += fg_tensor_bytes(t);
    }
    out->bits_per_weight = 8.0 * (double)bytes / (double)out->n_weight;
    if (r->worst_rms > 0) {
        const fg_tensor *t = fg_writer_tensor(r->writer, r->worst_idx);
        fg_role_name((fg_role)t->role, t->layer, t->expert, out->worst_name);
    }
    struct rusage use;
    if (getrusage(RUSAGE_SELF, &use) == 0) out->peak_rss_bytes = (uint64_t)use.ru_maxrss * 1024;
    out->seconds = (double)(fg_clock_ns() - start_ns) * 1e-9;
}

fg_status fg_convert(const fg_convert_opts *opts, fg_convert_report *report, fg_err *err)
{
    const uint64_t start_ns = fg_clock_ns();
    run *r = fg_mem_zalloc(sizeof *r);
    if (r == NULL) return fg_fail_nomem(err, opts->out_path);
    r->opts = opts;
    fg_shards_init(&r->source, NULL);
    fg_spool_init(&r->spool, NULL, 0);
    fg_status st = fg_run_prepare(r, err);
    if (st == FG_OK) st = allocate(r, err);
    if (st == FG_OK) st = begin_or_resume(r, err);
    if (st == FG_OK) st = begin_calibration(r, err);
    if (st == FG_OK) st = write_data(r, err);
    if (st == FG_OK) st = fg_run_set_calibration(r, err);
    if (st == FG_OK) st = fg_run_set_provenance(r, err);
    if (st == FG_OK) st = fg_writer_finish(r->writer, err);
    if (st == FG_OK && report != NULL) fill_report(r, start_ns, report);
    if (st != FG_OK) add_hint(r, err);
    fg_run_fini(r);
    fg_mem_free(r);
    return st;
}
