/* SPDX-License-Identifier: MIT
 *
 * One pass over the work (convert_impl.h) in the order of work.c.  Whatever can be refused without
 * reading tensor data (output, recipe, configuration, headers, names, shapes, tokenizer, free
 * space) is refused first, in `prepare` and fg_writer_resume; after that only I/O errors and
 * weights that are not finite can stop it.
 *
 * Bytes of a weight: shards.c reads them where catalog.c says, encode.c makes panels of them
 * (quant/panel.c), spool.c keeps panels back until the row scales that stand before them are known,
 * the writer has the rest.
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
#include "quant/linalg.h"
#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/sys/disk.h"
#include "src/sys/team.h"
#include "src/text/tokenizer.h"

typedef fg_run run;

void fg_run_init(run *r, const fg_convert_opts *opts)
{
    *r = (run){.opts = opts};
    fg_shards_init(&r->in.shards, &r->in.catalog.ckpt);
    fg_spool_init(&r->work.spool, opts->out_path, FG_SPOOL_BYTES);
}

void fg_run_fini(run *r)
{
    fg_calib_destroy(&r->work.calib); /* before the file that it maps */
    fg_encoder_destroy(&r->work.encoder);
    fg_spool_fini(&r->work.spool);
    fg_team_destroy(&r->work.team);
    fg_mem_free(r->work.row_scale);
    fg_mem_free(r->work.list);
    fg_writer_destroy(&r->out.writer);
    fg_file_plan_destroy(&r->out.plan);
    fg_metadata_fini(&r->out.meta);
    fg_shards_fini(&r->in.shards);
    fg_ids_fini(&r->in.calib_ids);
    fg_recipe_fini(&r->in.recipe);
    fg_catalog_fini(&r->in.catalog);
    fg_mem_free(r->in.supply);
    fg_mem_free(r->progress.hash);
    fg_mem_free(r->progress.hashed);
    fg_buf_fini(&r->progress.new_tensor);
}

/* --- before any data is read --- */

/* A file of the checkpoint folder. */
static fg_status refuse_own_file(const run *r, const char *name, fg_err *err)
{
    char *path = fg_io_join(r->opts->src_dir, name);
    if (path == NULL) return fg_fail_nomem(err, name);
    const fg_status st = fg_io_refuse_input(r->opts->out_path, path, err);
    fg_mem_free(path);
    return st;
}

/* Who said that OUT may be replaced, and was interrupted, need not say it again. */
static fg_status refuse_existing(const char *out, fg_err *err)
{
    const size_t n = strlen(out) + sizeof ".part.journal";
    char *journal = fg_mem_alloc(n);
    if (journal == NULL) return fg_fail_nomem(err, out);
    (void)snprintf(journal, n, "%s.part.journal", out);
    const bool goes_on = fg_io_exists(journal);
    fg_mem_free(journal);
    return goes_on ? FG_OK : fg_io_refuse_existing(out, err);
}

static fg_status check_not_there(const run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    const char *const named[] = {o->calib_path, o->sensitivity_path,
                                 fg_recipe_is_name(o->recipe_path) ? NULL : o->recipe_path};
    for (size_t s = 0; s < r->in.catalog.ckpt.n_shard; s++) {
        FG_TRY(fg_io_refuse_input(o->out_path, r->in.catalog.ckpt.shard[s].path, err));
    }
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
        if (named[i] != NULL) FG_TRY(fg_io_refuse_input(o->out_path, named[i], err));
    }
    for (size_t i = 0; i < FG_N_COPIED; i++) {
        FG_TRY(refuse_own_file(r, fg_copied_files[i].file, err));
    }
    FG_TRY(refuse_own_file(r, FG_HF_INDEX_NAME, err));
    return o->keep_existing ? refuse_existing(o->out_path, err) : FG_OK;
}

/* --- data --- */

uint64_t fg_run_weight(const run *r, const fg_tensor *t)
{
    return fg_weight_index(&r->in.catalog.shape, (fg_role)t->role, t->layer, t->expert);
}

static void note_error(run *r, uint64_t idx)
{
    const double rms = (double)fg_file_plan_tensor(fg_writer_plan(r->out.writer), idx)->err_rms;
    if (rms > r->progress.worst_rms) {
        r->progress.worst_rms = rms;
        r->progress.worst_idx = idx;
    }
}

fg_status fg_run_tick(void *ctx, uint64_t n, fg_err *err)
{
    run *r = ctx;
    const fg_convert_opts *o = r->opts;
    r->progress.done_bytes += n;
    if (o->progress == NULL ||
        o->progress(o->ctx, r->progress.done_bytes, r->in.catalog.source_bytes)) {
        return FG_OK;
    }
    return fg_fail(err, FG_ECANCEL, "%s: cancelled after %llu of %llu bytes, expected to finish",
                   o->out_path, (unsigned long long)r->progress.done_bytes,
                   (unsigned long long)r->in.catalog.source_bytes);
}

/* The calibrated inputs of one job, or of a pair with the same inputs. */
static fg_status calibrate(run *r, fg_encode_job *job, size_t n, fg_feedback *f, fg_err *err)
{
    const fg_model_file *view;
    bool has;
    if (r->work.calib == NULL) return FG_OK;
    FG_TRY(fg_writer_view(r->out.writer, &view, err)); /* what is written so far can be read */
    FG_TRY(fg_calib_inputs(r->work.calib, job[0].tensor, &has, f, err));
    for (size_t m = 0; m < n && has; m++) job[m].feedback = f;
    return FG_OK;
}

/* Gate, up and down of an expert. */
static fg_status encode_expert(run *r, fg_encode_job *job, const fg_encode_io *io, fg_err *err)
{
    fg_feedback in, hidden;
    FG_TRY(calibrate(r, job, 2, &in, err));
    FG_TRY(fg_encode(r->work.encoder, job, 2, io, err));
    if (r->work.calib != NULL && r->work.spool.holding) {
        fg_calib_bind_pair(r->work.calib, job[0].tensor, job[1].tensor, r->work.spool.mem,
                           job[0].row_scale, job[1].row_scale);
    }
    FG_TRY(calibrate(r, job + 2, 1, &hidden, err));
    return fg_encode(r->work.encoder, job + 2, 1, io, err);
}

static fg_encode_io io_of(run *r)
{
    return (fg_encode_io){fg_spool_put, &r->work.spool, fg_run_tick, r};
}

static fg_status write_vector(run *r, uint64_t idx, fg_err *err)
{
    const fg_tensor *t = fg_file_plan_tensor(r->out.plan, idx);
    const uint64_t weight = fg_run_weight(r, t);
    fg_encode_job job = {.tensor = t, .piece = &r->in.catalog.piece[weight]};
    const fg_encode_io io = io_of(r);
    FG_TRY(fg_spool_begin(&r->work.spool, r->out.writer, NULL, err));
    FG_TRY(fg_encode_vector(r->work.encoder, &job, &io, err));
    r->progress.hash[weight] = job.hash;
    if (job.peak == 0.0f) FG_TRY(fg_run_tell_zero(r, idx, err));
    fg_writer_set_error(r->out.writer, idx, &(fg_tensor_error){0});
    return FG_OK;
}

/* Where panels wait for their row scales, and how many do: job[n] of the tensors from idx on. */
static fg_status begin_spool(run *r, const fg_encode_job *job, size_t n, fg_err *err)
{
    /* gate and up are run from the spool's memory while down is calibrated */
    const bool calib_pair = r->work.calib != NULL && n > 1;
    fg_spool_hold hold = {.first = job[0].tensor->offset,
                          .limit = calib_pair ? FG_CALIB_SPOOL_BYTES : FG_SPOOL_BYTES};
    bool scaled = false;
    for (size_t m = 0; m < n; m++) {
        const fg_tensor *t = job[m].tensor;
        hold.expect += fg_n_panel(t->n_row) * fg_panel_bytes((fg_qtype)t->type, t->n_col);
        assert(t->scale_offset < hold.first);
        scaled = scaled || t->scale_offset != 0;
    }
    if (scaled && calib_pair && hold.expect > FG_CALIB_SPOOL_BYTES / 2) {
        return fg_fail(err, FG_ELIMIT,
                       "layer %u: experts of %llu bytes, expected at most %llu to calibrate",
                       job[0].tensor->layer, (unsigned long long)hold.expect,
                       (unsigned long long)(FG_CALIB_SPOOL_BYTES / 2));
    }
    hold.expect += n * FG_PAGE_BYTES;
    return fg_spool_begin(&r->work.spool, r->out.writer, scaled ? &hold : NULL, err);
}

static fg_status end_spool(run *r, const fg_encode_job *job, size_t n, fg_err *err)
{
    fg_spool_scales scales[FG_WORK_TENSORS] = {{0}};
    for (size_t m = 0; m < n; m++) {
        const fg_tensor *t = job[m].tensor;
        if (t->scale_offset == 0) continue;
        scales[m] = (fg_spool_scales){t->scale_offset, job[m].row_scale,
                                      (size_t)(FG_PANEL_ROWS * fg_n_panel(t->n_row))};
    }
    return fg_spool_end(&r->work.spool, scales, n, job[0].tensor->offset, err);
}

/* Matrices idx .. idx + n - 1: one, or gate, up and down of an expert. */
static fg_status write_matrices(run *r, uint64_t idx, size_t n, fg_err *err)
{
    fg_encode_job job[FG_WORK_TENSORS] = {{0}};
    uint64_t at = 0;
    for (size_t m = 0; m < n; m++) {
        const fg_tensor *t = fg_file_plan_tensor(r->out.plan, idx + m);
        job[m].tensor = t;
        job[m].piece = &r->in.catalog.piece[fg_run_weight(r, t)];
        job[m].row_scale = r->work.row_scale + at;
        at += FG_PANEL_ROWS * fg_n_panel(t->n_row);
    }
    FG_TRY(begin_spool(r, job, n, err));
    const fg_encode_io io = io_of(r);
    fg_feedback in;
    if (n == 1) {
        FG_TRY(calibrate(r, job, 1, &in, err));
        FG_TRY(fg_encode(r->work.encoder, job, 1, &io, err));
    } else {
        FG_TRY(encode_expert(r, job, &io, err));
    }
    for (size_t m = 0; m < n; m++) {
        r->progress.hash[fg_run_weight(r, job[m].tensor)] = job[m].hash;
        const fg_tensor_error e = {job[m].err_rms, job[m].err_max_row, job[m].err_out, job[m].peak};
        fg_writer_set_error(r->out.writer, idx + m, &e);
        note_error(r, idx + m);
        if (job[m].peak == 0.0f) FG_TRY(fg_run_tell_zero(r, idx + m, err));
    }
    FG_TRY(end_spool(r, job, n, err));
    if (r->work.calib == NULL) return FG_OK;
    const fg_model_file *view;
    FG_TRY(fg_writer_view(r->out.writer, &view, err));
    return fg_calib_wrote(r->work.calib, job[n - 1].tensor, err);
}

/* --- checkpoints: what one life of a conversion leaves for the next --- */

/* What is not in the plan or the metadata: which shard has which tensor, and the text to calibrate
 * with; headers of shards are compared one by one as they come (work.c).  Not: threads, places. */
static fg_status source_identity(const run *r, uint64_t *out, fg_err *err)
{
    const fg_hf_index *x = &r->in.catalog.ckpt.index;
    fg_buf b = {0};
    fg_buf_printf(&b, "convert %d\n", FG_CONVERT_VERSION);
    for (size_t i = 0; i < x->n_entry; i++) {
        fg_buf_printf(&b, "%s\n%s\n", x->entry[i].name, x->shard_name[x->entry[i].shard]);
    }
    fg_buf_u8(&b, r->opts->calib_diagonal);
    if (r->opts->calib_path != NULL) fg_buf_put_str(&b, fg_linalg_name()); /* its bits show */
    for (size_t i = 0; i < r->in.calib_ids.len; i++) fg_buf_u32(&b, r->in.calib_ids.data[i]);
    if (!b.failed) *out = fg_hash64(b.data, b.len);
    const fg_status st = b.failed ? fg_fail_nomem(err, "identity") : FG_OK;
    fg_buf_fini(&b);
    return st;
}

static fg_status write_checkpoint(run *r, fg_err *err)
{
    fg_buf b = {0};
    fg_status st = fg_work_put(r, &b, err);
    if (st == FG_OK) st = fg_writer_checkpoint(r->out.writer, b.data, b.len, err);
    fg_buf_fini(&b);
    if (st == FG_OK) fg_work_put_done(r);
    return st;
}

static fg_status checkpoint(run *r, fg_err *err)
{
    FG_TRY(write_checkpoint(r, err));
    return fg_work_delete(r, err);
}

static bool is_cancelled(const run *r)
{
    const fg_convert_opts *o = r->opts;
    return o->progress != NULL &&
           !o->progress(o->ctx, r->progress.done_bytes, r->in.catalog.source_bytes);
}

/* Whoever cancels wants to go on: what is done is made durable, but for the piece of work that is
 * under way. */
static void keep_work(run *r)
{
    if (r->out.writer == NULL || !is_cancelled(r)) return;
    fg_writer_drop(r->out.writer);
    (void)write_checkpoint(r, NULL); /* a failure leaves the one before */
    fg_writer_keep(r->out.writer);
}

/* Behind a piece of work: when it is time, when shards become free, and calibrated at the end of
 * each layer, which may have taken long. */
static fg_status save(run *r, const fg_work *u, fg_err *err)
{
    const uint64_t next = u->first + u->n;
    const bool layer_ends = next == fg_file_plan_n_tensor(r->out.plan) ||
                            fg_file_plan_tensor(r->out.plan, next)->layer !=
                                fg_file_plan_tensor(r->out.plan, next - 1)->layer;
    if (!fg_writer_checkpoint_due(r->out.writer) && !fg_work_can_delete(r) &&
        !(r->work.calib != NULL && layer_ends)) {
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

static bool show_check(void *ctx, uint64_t done, uint64_t total)
{
    const fg_convert_opts *o = ((const run *)ctx)->opts;
    return o->checking == NULL || o->checking(o->ctx, done, total);
}

/* All that a resume asks before it changes anything. */
static fg_status check_rest(void *ctx, fg_err *err)
{
    run *r = ctx;
    FG_TRY(fg_work_check(r, err));
    return r->opts->delete_consumed ? check_space(r, err) : FG_OK;
}

static fg_status begin_or_resume(run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    const fg_resume_calls calls = {.progress = show_check,
                                   .damaged = fg_run_tell_damage,
                                   .payload = fg_work_take,
                                   .check = check_rest,
                                   .ctx = r,
                                   .in_order = o->calib_path != NULL};
    uint64_t identity = 0, next;
    FG_TRY(source_identity(r, &identity, err));
    if (o->checkpoint_bytes != 0) {
        fg_writer_checkpoint_every(r->out.writer, o->checkpoint_bytes, UINT64_MAX);
    }
    fg_writer_reserve(r->out.writer, o->delete_consumed ? UINT64_MAX : r->work.temp_bytes);
    FG_TRY(fg_writer_resume(r->out.writer, identity, &calls, &next, err));
    r->progress.resumed_bytes = r->progress.done_bytes;
    if (r->progress.done_bytes == 0) return FG_OK;
    for (uint64_t i = 0; i < fg_file_plan_n_tensor(r->out.plan); i++) {
        if (fg_writer_is_done(r->out.writer, i)) note_error(r, i);
    }
    fg_run_recall_zeros(r);
    if (o->resumed != NULL) o->resumed(o->ctx, r->progress.done_bytes, r->in.catalog.source_bytes);
    return fg_work_delete(r, err);
}

/* An error line that ends a life says so when the next one will go on. */
static void add_hint(const run *r, fg_err *err)
{
    if (err == NULL || r->out.writer == NULL || !fg_writer_is_kept(r->out.writer)) return;
    const size_t n = strlen(err->msg);
    (void)snprintf(err->msg + n, sizeof err->msg - n,
                   "; %.200s.part is kept, the same command continues", r->opts->out_path);
}

static fg_status do_work(run *r, const fg_work *u, fg_err *err)
{
    const fg_tensor *t = fg_file_plan_tensor(r->out.plan, u->first);
    FG_TRY(fg_writer_seek(r->out.writer, u->first, err));
    return fg_role_is_vector((fg_role)t->role) ? write_vector(r, u->first, err)
                                               : write_matrices(r, u->first, u->n, err);
}

static fg_status write_data(run *r, fg_err *err)
{
    for (;;) {
        size_t i;
        FG_TRY(fg_work_next(r, &i, err));
        if (i == r->work.n) {
            FG_TRY(fg_work_wait_all(r, err));
            /* parts get their names before OUT does: a kill in between is to be gone on from */
            return r->opts->n_split == 0 || r->progress.new_tensor.len == 0 ? FG_OK
                                                                            : checkpoint(r, err);
        }
        FG_TRY(do_work(r, &r->work.list[i], err));
        fg_work_set_done(r, i);
        FG_TRY(save(r, &r->work.list[i], err));
    }
}

/* --- the whole --- */

/* The recipe that a budget gives, in place of one that the caller names. */
static fg_status choose_recipe(run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    const fg_budget_opts bo = {
        .sensitivity_path = o->sensitivity_path,
        .bpw = o->target_bpw,
        .file_bytes = o->target_bytes,
        .meta_bytes = fg_metadata_bytes(&r->out.meta),
        .n_meta = FG_N_COPIED + FG_N_OWN_META,
    };
    fg_buf b = {0};
    fg_status st = fg_budget_choose(&b, &r->in.catalog.shape, &bo, err);
    if (st == FG_OK) {
        st = fg_recipe_load_text(&r->in.recipe, (const char *)b.data, b.len, "budget", err);
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

/* Most bytes of panels that wait in memory.  Calibration runs gate and up of an expert from
 * there. */
static uint64_t spool_limit(const run *r, const fg_work *u)
{
    return r->opts->calib_path != NULL && u->n > 1 ? FG_CALIB_SPOOL_BYTES : FG_SPOOL_BYTES;
}

/* What buffers and temporary files must hold. */
static void measure(run *r)
{
    for (size_t i = 0; i < r->work.n; i++) {
        const uint64_t limit = spool_limit(r, &r->work.list[i]);
        uint64_t spool = 0;
        for (uint32_t k = 0; k < r->work.list[i].n; k++) {
            const fg_tensor *t = fg_file_plan_tensor(r->out.plan, r->work.list[i].first + k);
            const uint64_t n = FG_PANEL_ROWS * fg_n_panel(t->n_row);
            if (t->n_col > r->work.max_cols) r->work.max_cols = t->n_col;
            if (n > r->work.max_rows) r->work.max_rows = n;
            spool += fg_n_panel(t->n_row) * fg_panel_bytes((fg_qtype)t->type, t->n_col);
        }
        if (spool > limit && spool - limit > r->work.temp_bytes) r->work.temp_bytes = spool - limit;
        if (spool > limit) spool = limit;
        if (spool > r->work.spool_bytes) r->work.spool_bytes = spool;
    }
    if (r->opts->calib_path == NULL) return;
    r->work.temp_bytes += fg_calib_disk_bytes(&r->in.catalog.shape, r->in.calib_ids.len);
}

static fg_status check_calibration(const run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    if (o->calib_diagonal && o->calib_path == NULL) {
        return fg_fail(err, FG_EINVAL, "calibration: diagonal without a text, expected a text");
    }
    for (uint64_t i = 0; o->calib_path != NULL && i < fg_file_plan_n_tensor(r->out.plan); i++) {
        const fg_tensor *t = fg_file_plan_tensor(r->out.plan, i);
        if (t->role == FG_ROLE_EMBED || !fg_qtype_get(t->type)->quantized) continue;
        return fg_linalg_init(1, err); /* better known now; the identity names it */
    }
    if (o->calib_path == NULL) return FG_OK;
    return fg_fail(err, FG_EINVAL,
                   "calibration: no quantized matrix in the recipe, expected one; omit the text");
}

/* Deleting needs a folder that can be written to: better known now. */
static fg_status check_deletable(const run *r, fg_err *err)
{
    const char *dir = r->opts->src_dir;
    if (!r->opts->delete_consumed || access(dir, W_OK) == 0) return FG_OK;
    return fg_fail(err, FG_EIO, "%s: %s, expected a folder where shards can be deleted", dir,
                   strerror(errno));
}

static fg_status make_plan(run *r, fg_err *err)
{
    const fg_file_spec spec = {
        .shape = &r->in.catalog.shape,
        .choose = fg_recipe_choose,
        .ctx = &r->in.recipe,
        .meta = r->out.meta.entry,
        .n_meta = r->out.meta.n,
        .n_part = r->out.drives.n,
        .sealed = true,
    };
    return fg_file_plan_make(&r->out.plan, &spec, r->opts->out_path, err);
}

fg_status fg_run_prepare(run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    FG_TRY(fg_io_check_output(o->out_path, err));
    FG_TRY(check_budget(o, err));
    if (o->sensitivity_path == NULL) {
        FG_TRY(fg_recipe_load(&r->in.recipe, o->type, o->recipe_path, err));
    }
    FG_TRY(fg_catalog_open(&r->in.catalog, o->src_dir,
                           o->wait_for_shards ? FG_HF_LATER : FG_HF_SOME, err));
    FG_TRY(check_deletable(r, err));
    FG_TRY(check_not_there(r, err));
    FG_TRY(fg_run_copy_files(r, err));
    if (o->sensitivity_path != NULL) FG_TRY(choose_recipe(r, err));
    if (o->calib_path != NULL) {
        FG_TRY(fg_calib_read_text(&r->in.calib_ids, &r->in.calib_hash, &r->in.calib_flaws,
                                  o->src_dir, o->calib_path, err));
    }
    FG_TRY(fg_recipe_check(&r->in.recipe, &r->in.catalog.shape, o->recipe_path, err));
    FG_TRY(fg_part_drives_find(&r->out.drives, o->out_path, o->split_dir, o->n_split, err));
    FG_TRY(fg_run_add_metadata(r, err));
    FG_TRY(make_plan(r, err));
    FG_TRY(check_calibration(r, err));
    FG_TRY(fg_work_create(r, err));
    measure(r);
    return fg_run_tell_before(r, err);
}

static fg_status allocate(run *r, fg_err *err)
{
    r->progress.hash =
        fg_mem_zalloc_array((size_t)r->in.catalog.n_weight, sizeof *r->progress.hash);
    r->progress.hashed = fg_mem_zalloc((size_t)r->in.catalog.n_weight);
    r->work.row_scale = fg_mem_zalloc_array((size_t)(FG_WORK_TENSORS * r->work.max_rows),
                                            sizeof *r->work.row_scale);
    if (r->progress.hash == NULL || r->progress.hashed == NULL || r->work.row_scale == NULL) {
        return fg_fail_nomem(err, r->opts->out_path);
    }
    FG_TRY(fg_writer_create(&r->out.writer, r->opts->out_path, r->out.plan, r->out.meta.entry,
                            r->out.meta.n, r->opts->split_dir, err));
    FG_TRY(fg_team_create(&r->work.team, r->opts->n_thread, false, err));
    return fg_encoder_create(&r->work.encoder, r->work.team, &r->in.shards, r->work.max_cols, err);
}

static fg_status still_wanted(void *ctx, fg_err *err)
{
    return fg_run_tick(ctx, 0, err);
}

static fg_status begin_calibration(run *r, fg_err *err)
{
    const fg_model_file *view;
    if (r->opts->calib_path == NULL) return FG_OK;
    FG_TRY(fg_writer_view(r->out.writer, &view, err));
    const fg_calib_opts o = {!r->opts->calib_diagonal, r->opts->out_path, still_wanted, r};
    FG_TRY(fg_calib_create(&r->work.calib, view, r->work.team, r->in.calib_ids.data,
                           r->in.calib_ids.len, &o, err));
    for (uint64_t i = 0;
         i < fg_file_plan_n_tensor(r->out.plan) && fg_writer_is_done(r->out.writer, i); i++) {
        FG_TRY(fg_calib_skip(r->work.calib, fg_file_plan_tensor(r->out.plan, i), err));
    }
    return FG_OK;
}

static void fill_report(const run *r, uint64_t start_ns, fg_convert_report *out)
{
    *out = (fg_convert_report){
        .source_bytes = r->in.catalog.source_bytes,
        .file_bytes = fg_file_plan_file_bytes(r->out.plan),
        .n_tensor = fg_file_plan_n_tensor(r->out.plan),
        .n_skipped = r->in.catalog.n_skipped,
        .calib = r->work.calib == NULL ? (fg_calib_report){0} : fg_calib_get_report(r->work.calib),
        .worst_rms = r->progress.worst_rms,
        .resumed_bytes = r->progress.resumed_bytes,
        .n_deleted = r->progress.n_deleted,
        .deleted_bytes = r->progress.deleted_bytes,
        .n_left_alone = r->progress.n_left_alone,
        .n_zero = r->progress.n_zero,
    };
    uint64_t bytes;
    fg_file_plan_sums(r->out.plan, &out->n_weight, &bytes);
    out->bits_per_weight = fg_bits_per_weight(bytes, out->n_weight);
    if (r->progress.worst_rms > 0) {
        const fg_tensor *t = fg_file_plan_tensor(r->out.plan, r->progress.worst_idx);
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
    fg_run_init(r, opts);
    fg_status st = fg_run_prepare(r, err);
    if (st == FG_OK) st = allocate(r, err);
    fg_io_on_full(fg_run_full, r);
    if (st == FG_OK) st = begin_or_resume(r, err);
    if (st == FG_OK) st = begin_calibration(r, err);
    if (st == FG_OK) st = write_data(r, err);
    if (st == FG_OK) st = fg_run_set_calibration(r, err);
    if (st == FG_OK) st = fg_run_set_provenance(r, err);
    if (st == FG_OK) st = fg_writer_finish(r->out.writer, err);
    if (st == FG_OK && report != NULL) fill_report(r, start_ns, report);
    if (st == FG_OK) fg_run_tell_after(r);
    fg_io_on_full(NULL, NULL);
    if (st != FG_OK) keep_work(r);
    if (st != FG_OK) add_hint(r, err);
    fg_run_fini(r);
    fg_mem_free(r);
    return st;
}
