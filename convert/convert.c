/* SPDX-License-Identifier: MIT
 *
 * One pass in file order.  Whatever can be refused without reading tensor data (output, recipe,
 * configuration, headers, names, shapes, tokenizer, free space) is refused first, in `prepare` and
 * fg_writer_begin; after that only I/O errors and weights that are not finite can stop the work.
 *
 * A group is what the file keeps together: one matrix, or gate, up and down of an expert.  Row scales
 * stand before the panels of their group, so a quantized group waits in the spool until its last
 * panel is encoded.
 */
#include "convert/convert.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "convert/budget.h"
#include "convert/calib.h"
#include "convert/encode.h"
#include "convert/plan.h"
#include "convert/recipe.h"
#include "convert/spool.h"
#include "quant/linalg.h"
#include "src/base/buf.h"
#include "src/base/clock.h"
#include "src/base/fp.h"
#include "src/base/hash.h"
#include "src/base/io.h"
#include "src/base/json.h"
#include "src/base/mem.h"
#include "src/format/writer.h"
#include "src/sys/team.h"
#include "src/text/tokenizer.h"

/* An expert of the release takes 90 MB at q4 and 175 MB at q8; embedding and lm_head, 1.3 GB at q8,
 * overflow into a file. */
#define SPOOL_BYTES ((uint64_t)192 << 20)
/* Calibration runs gate and up of an expert from the spool's memory. */
#define CALIB_SPOOL_BYTES ((uint64_t)1 << 30)
#define MAX_META_BYTES    ((uint64_t)1 << 28)

enum {
    GROUP = 3, /* tensors of an expert, written together */
};

/* Copied verbatim when present. */
static const char *const meta_files[] = {"tokenizer.json", "tokenizer_config.json",
                                         "generation_config.json", "chat_template.jinja"};
static const char *const other_inputs[] = {
    "config.json",           "model.safetensors.index.json", "tokenizer.json",
    "tokenizer_config.json", "generation_config.json",       "chat_template.jinja"};
#define N_OF(a) (sizeof(a) / sizeof(a)[0])

/* One conversion.  Everything zero-initialised; freed by run_fini. */
typedef struct run {
    const fg_convert_opts *opts;
    fg_plan plan;
    fg_recipe recipe;
    fg_writer *writer;
    fg_team *team;
    fg_source source;
    fg_encoder *encoder;
    fg_calib *calib; /* NULL: not wanted */
    fg_ids calib_ids;
    uint64_t calib_hash; /* of the text */
    fg_spool spool;
    bool spooling;
    uint64_t spool_pos;   /* file position of the next spooled byte */
    uint64_t *hash;       /* [plan.n_weight] of the source bytes */
    float *row_scale;     /* of one group */
    uint8_t *scale_bytes; /* the same, encoded, of one tensor */
    uint64_t done_bytes;
    uint64_t next_tensor, saved_tensor; /* to be written; of the last checkpoint */
    uint64_t resumed_bytes;             /* source bytes of earlier lives */
    double worst_rms;
    uint64_t worst_idx;
} run;

static void run_fini(run *r)
{
    fg_calib_destroy(&r->calib); /* before the file that it maps */
    fg_ids_fini(&r->calib_ids);
    fg_encoder_destroy(&r->encoder);
    fg_source_fini(&r->source);
    fg_spool_fini(&r->spool);
    fg_team_destroy(&r->team);
    fg_writer_destroy(&r->writer);
    fg_recipe_fini(&r->recipe);
    fg_plan_fini(&r->plan);
    fg_mem_free(r->hash);
    fg_mem_free(r->row_scale);
    fg_mem_free(r->scale_bytes);
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

/* --- metadata --- */

/* A broken tokenizer is refused now, not after hours of work. */
static fg_status add_meta_file(run *r, const char *name, fg_err *err)
{
    char *path = fg_io_join(r->opts->src_dir, name), *text = NULL;
    size_t n = 0;
    fg_status st = FG_OK;
    if (path == NULL) return fg_fail_nomem(err, name);
    if (!fg_io_exists(path)) goto done;
    st = fg_io_read_all(path, MAX_META_BYTES, &text, &n, err);
    const char *dot = strrchr(name, '.');
    if (st == FG_OK && strcmp(dot, ".json") == 0) {
        fg_json *root;
        st = fg_json_parse(&root, text, n, path, err);
        if (st == FG_OK && !fg_json_is_object(root)) {
            st = fg_fail(err, FG_EFORMAT, "%s: not a JSON object, expected one", path);
        }
        fg_json_free(root);
    }
    if (st == FG_OK && strcmp(name, "tokenizer.json") == 0) {
        fg_tokenizer *t;
        st = fg_tokenizer_create(&t, text, n, path, err);
        if (st == FG_OK && fg_tokenizer_n_id(t) > r->plan.shape.n_vocab) {
            st = fg_fail(err, FG_ESHAPE, "%s: ids up to %u, expected less than vocab_size %u", path,
                         fg_tokenizer_n_id(t) - 1, r->plan.shape.n_vocab);
        }
        fg_tokenizer_destroy(&t);
    }
    if (st == FG_OK) st = fg_writer_add_meta(r->writer, name, text, n, err);
done:
    fg_mem_free(text);
    fg_mem_free(path);
    return st;
}

static const char *recipe_name(const fg_convert_opts *o)
{
    if (o->sensitivity_path != NULL) return "budget";
    if (o->type != NULL) return o->type;
    return fg_recipe_is_name(o->recipe_path) ? o->recipe_path : "q4";
}

/* hash: one a shard, NULL for a text of the same length without them. */
static fg_status print_provenance(const run *r, const uint64_t *hash, fg_buf *b, fg_err *err)
{
    const fg_hf_checkpoint *c = &r->plan.ckpt;
    const char *type = recipe_name(r->opts);
    fg_buf_printf(b, "{\"converter\": \"fulgur\", \"version\": %d, \"type\": \"%s\", \"files\": [",
                  FG_CONVERT_VERSION, type);
    for (size_t s = 0; s < c->n_shard; s++) {
        fg_buf_put_str(b, s == 0 ? "{\"name\": " : ", {\"name\": ");
        fg_json_put_str(b, c->shard_name[s], strlen(c->shard_name[s]));
        fg_buf_printf(b, ", \"bytes\": %llu, \"xxh3\": \"%016llx\"}",
                      (unsigned long long)c->shard[s].file_bytes,
                      (unsigned long long)(hash == NULL ? 0 : hash[s]));
    }
    fg_buf_put_str(b, "]}\n");
    return b->failed ? fg_fail_nomem(err, "provenance") : FG_OK;
}

/* Numbers have a fixed width, because the entry's length is planned before they are known. */
static fg_status print_calibration(const run *r, fg_calib_report c, fg_buf *b, fg_err *err)
{
    const char *path = r->opts->calib_path, *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;
    fg_buf_put_str(b, "{\"text\": ");
    fg_json_put_str(b, name, strlen(name));
    fg_buf_printf(b,
                  ", \"xxh3\": \"%016llx\", \"tokens\": %10llu, \"window\": %d, \"moments\": "
                  "\"%s\", \"experts\": %10llu, \"experts_topped_up\": %10llu, "
                  "\"least_routed_tokens\": %10llu, \"least_tokens\": %10llu}\n",
                  (unsigned long long)r->calib_hash, (unsigned long long)c.n_token, FG_CALIB_WINDOW,
                  r->opts->calib_diagonal ? "diagonal" : "full", (unsigned long long)c.n_expert,
                  (unsigned long long)c.n_topped, (unsigned long long)c.min_routed,
                  (unsigned long long)c.min_used);
    return b->failed ? fg_fail_nomem(err, "calibration") : FG_OK;
}

static fg_status add_calibration(run *r, fg_err *err)
{
    fg_buf b = {0};
    fg_status st = print_calibration(r, (fg_calib_report){0}, &b, err);
    if (st == FG_OK) st = fg_writer_add_meta(r->writer, "calibration", b.data, b.len, err);
    fg_buf_fini(&b);
    return st;
}

static fg_status set_calibration(run *r, fg_err *err)
{
    fg_buf b = {0};
    if (r->calib == NULL) return FG_OK;
    fg_status st = print_calibration(r, fg_calib_get_report(r->calib), &b, err);
    if (st == FG_OK) st = fg_writer_set_meta(r->writer, "calibration", b.data, b.len, err);
    fg_buf_fini(&b);
    return st;
}

static fg_status add_metadata(run *r, fg_err *err)
{
    if (r->opts->calib_path != NULL) FG_TRY(add_calibration(r, err));
    FG_TRY(fg_writer_add_meta(r->writer, "config.json", r->plan.config, r->plan.config_bytes, err));
    for (size_t i = 0; i < N_OF(meta_files); i++) FG_TRY(add_meta_file(r, meta_files[i], err));
    FG_TRY(fg_writer_add_meta(r->writer, "recipe", r->recipe.text.data, r->recipe.text.len, err));
    fg_buf b = {0};
    fg_status st = print_provenance(r, NULL, &b, err);
    if (st == FG_OK) st = fg_writer_add_meta(r->writer, "provenance", b.data, b.len, err);
    fg_buf_fini(&b);
    return st;
}

/* A piece's place, for sorting into file order. */
typedef struct placed {
    uint64_t offset, weight;
    uint32_t shard;
} placed;

static int by_place(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static fg_status hash_header(run *r, uint32_t shard, fg_hasher *h, fg_err *err)
{
    uint8_t block[16384];
    const uint64_t n = r->plan.ckpt.shard[shard].header_bytes;
    for (uint64_t at = 0; at < n; at += sizeof block) {
        const size_t len = n - at < sizeof block ? (size_t)(n - at) : sizeof block;
        FG_TRY(fg_source_read(&r->source, shard, block, len, at, err));
        fg_hasher_add(h, block, len);
    }
    return FG_OK;
}

/* File hashes as convert.h defines them. */
static fg_status hash_files(run *r, placed *place, fg_hasher *h, uint64_t *hash, fg_err *err)
{
    const fg_plan *p = &r->plan;
    for (uint64_t i = 0; i < p->n_weight; i++) {
        place[i] = (placed){p->piece[i].offset, i, p->piece[i].shard};
    }
    qsort(place, (size_t)p->n_weight, sizeof *place, by_place);
    uint64_t i = 0;
    for (uint32_t s = 0; s < p->ckpt.n_shard; s++) {
        fg_hasher_reset(h);
        FG_TRY(hash_header(r, s, h, err));
        for (; i < p->n_weight && place[i].shard == s; i++) {
            uint8_t bytes[8];
            const uint64_t v = r->hash[place[i].weight];
            for (int k = 0; k < 8; k++) bytes[k] = (uint8_t)(v >> (8 * k));
            fg_hasher_add(h, bytes, sizeof bytes);
        }
        hash[s] = fg_hasher_digest(h);
    }
    return FG_OK;
}

static fg_status set_provenance(run *r, fg_err *err)
{
    fg_buf b = {0};
    fg_hasher *h = fg_hasher_create();
    placed *place = fg_mem_zalloc_array((size_t)r->plan.n_weight, sizeof *place);
    uint64_t *hash = fg_mem_zalloc_array(r->plan.ckpt.n_shard, sizeof *hash);
    fg_status st = h == NULL || place == NULL || hash == NULL ? fg_fail_nomem(err, "provenance")
                                                              : hash_files(r, place, h, hash, err);
    if (st == FG_OK) st = print_provenance(r, hash, &b, err);
    if (st == FG_OK) st = fg_writer_set_meta(r->writer, "provenance", b.data, b.len, err);
    fg_buf_fini(&b);
    fg_hasher_destroy(h);
    fg_mem_free(place);
    fg_mem_free(hash);
    return st;
}

/* --- data --- */

static uint64_t weight_of(const run *r, const fg_tensor *t)
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

static fg_status tick(void *ctx, uint64_t n, fg_err *err)
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
    const uint64_t weight = weight_of(r, t);
    const fg_piece *p = &r->plan.piece[weight];
    const size_t n = (size_t)t->n_col;
    uint8_t *bytes = fg_mem_alloc(n * sizeof(float));
    float *v = fg_mem_alloc(n * sizeof *v);
    fg_status st = bytes == NULL || v == NULL ? fg_fail_nomem(err, "vector") : FG_OK;
    if (st == FG_OK) {
        st = fg_source_read(&r->source, p->shard, bytes, (size_t)p->bytes, p->offset, err);
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
    if (st == FG_OK) st = tick(r, p->bytes, err);
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
    fg_encode_job job[GROUP] = {{0}};
    uint64_t at = 0, panel_bytes = 0;
    r->spooling = false;
    for (size_t m = 0; m < n; m++) {
        const fg_tensor *t = fg_writer_tensor(r->writer, idx + m);
        job[m].tensor = t;
        job[m].piece = &r->plan.piece[weight_of(r, t)];
        job[m].row_scale = r->row_scale + at;
        at += FG_PANEL_ROWS * fg_n_panel(t->n_row);
        panel_bytes += fg_n_panel(t->n_row) * fg_panel_bytes((fg_qtype)t->type, t->n_col);
        if (t->scale_offset == 0) continue;
        assert(t->scale_offset < job[0].tensor->offset);
        r->spooling = true;
    }
    const bool spooled = r->spooling;
    /* gate and up are run from the spool's memory while down is calibrated */
    r->spool.limit = r->calib != NULL && n == GROUP ? CALIB_SPOOL_BYTES : SPOOL_BYTES;
    if (spooled && r->calib != NULL && n == GROUP && panel_bytes > CALIB_SPOOL_BYTES / 2) {
        return fg_fail(err, FG_ELIMIT,
                       "layer %u: experts of %llu bytes, expected at most %llu to calibrate",
                       job[0].tensor->layer, (unsigned long long)panel_bytes,
                       (unsigned long long)(CALIB_SPOOL_BYTES / 2));
    }
    if (spooled) {
        r->spool_pos = job[0].tensor->offset;
        FG_TRY(fg_spool_start(&r->spool, panel_bytes + n * FG_PAGE_BYTES, err));
    }
    const fg_encode_io io = {put, tick, r};
    fg_feedback in;
    if (n == 1) {
        FG_TRY(calibrate(r, job, 1, &in, err));
        FG_TRY(fg_encode(r->encoder, job, 1, &io, err));
    } else {
        FG_TRY(encode_expert(r, job, &io, err));
    }
    for (size_t m = 0; m < n; m++) {
        r->hash[weight_of(r, job[m].tensor)] = job[m].hash;
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

/* What is not in the plan or the metadata: the source's data, as far as headers tell, and the text to
 * calibrate with.  Not: threads, places. */
static fg_status source_identity(run *r, uint64_t *out, fg_err *err)
{
    const fg_hf_checkpoint *c = &r->plan.ckpt;
    fg_hasher *h = fg_hasher_create();
    fg_buf b = {0};
    fg_status st = h == NULL ? fg_fail_nomem(err, "identity") : FG_OK;
    fg_buf_printf(&b, "convert %d\n", FG_CONVERT_VERSION);
    for (uint32_t s = 0; s < c->n_shard && st == FG_OK; s++) {
        fg_hasher_reset(h);
        st = hash_header(r, s, h, err);
        fg_buf_put_str(&b, c->shard_name[s]);
        fg_buf_printf(&b, "\n%llu %016llx\n", (unsigned long long)c->shard[s].file_bytes,
                      st == FG_OK ? (unsigned long long)fg_hasher_digest(h) : 0);
    }
    fg_buf_u8(&b, r->opts->calib_diagonal);
    if (r->opts->calib_path != NULL) fg_buf_put_str(&b, fg_linalg_name()); /* its bits show */
    for (size_t i = 0; i < r->calib_ids.len; i++) fg_buf_u32(&b, r->calib_ids.data[i]);
    if (st == FG_OK && b.failed) st = fg_fail_nomem(err, "identity");
    if (st == FG_OK) *out = fg_hash64(b.data, b.len);
    fg_hasher_destroy(h);
    fg_buf_fini(&b);
    return st;
}

/* A checkpoint carries the source hashes of the tensors that are new in it. */
static fg_status take_hashes(void *ctx, const void *bytes, uint64_t n, fg_err *err)
{
    run *r = ctx;
    if (n % 8 != 0 || n / 8 > fg_writer_n_tensor(r->writer) - r->saved_tensor) {
        return fg_fail(err, FG_EFORMAT, "%s.part.journal: %llu bytes of hashes, expected fewer",
                       r->opts->out_path, (unsigned long long)n);
    }
    fg_cursor c = fg_cursor_make(bytes, (size_t)n);
    for (; c.left > 0; r->saved_tensor++) {
        const uint64_t weight = weight_of(r, fg_writer_tensor(r->writer, r->saved_tensor));
        r->hash[weight] = fg_cursor_u64(&c);
        r->done_bytes += r->plan.piece[weight].bytes;
    }
    return FG_OK;
}

/* After the tensors before `next`: when it is time, and calibrated at the end of each layer, which may
 * have taken long. */
static fg_status save(run *r, uint64_t next, fg_err *err)
{
    const bool layer_ends =
        next == fg_writer_n_tensor(r->writer) ||
        fg_writer_tensor(r->writer, next)->layer != fg_writer_tensor(r->writer, next - 1)->layer;
    if (!fg_writer_checkpoint_due(r->writer) && !(r->calib != NULL && layer_ends)) return FG_OK;
    fg_buf b = {0};
    for (uint64_t i = r->saved_tensor; i < next; i++) {
        fg_buf_u64(&b, r->hash[weight_of(r, fg_writer_tensor(r->writer, i))]);
    }
    const fg_status st = b.failed ? fg_fail_nomem(err, r->opts->out_path)
                                  : fg_writer_checkpoint(r->writer, next, b.data, b.len, err);
    fg_buf_fini(&b);
    r->saved_tensor = next;
    return st;
}

static fg_status begin_or_resume(run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    uint64_t identity = 0;
    FG_TRY(source_identity(r, &identity, err));
    if (o->checkpoint_bytes != 0) {
        fg_writer_checkpoint_every(r->writer, o->checkpoint_bytes, UINT64_MAX);
    }
    FG_TRY(fg_writer_resume(r->writer, identity, take_hashes, r, &r->next_tensor, err));
    if (r->saved_tensor != r->next_tensor) {
        return fg_fail(
            err, FG_EFORMAT, "%s.part.journal: hashes of %llu tensors, expected %llu; delete it",
            o->out_path, (unsigned long long)r->saved_tensor, (unsigned long long)r->next_tensor);
    }
    if (r->next_tensor == 0) return FG_OK;
    for (uint64_t i = 0; i < r->next_tensor; i++) note_error(r, i);
    r->resumed_bytes = r->done_bytes;
    if (o->resumed != NULL) o->resumed(o->ctx, r->done_bytes, r->plan.source_bytes);
    return FG_OK;
}

/* An error line that ends a life says so when the next one will go on. */
static void add_hint(const run *r, fg_err *err)
{
    if (err == NULL || r->writer == NULL || !fg_writer_is_kept(r->writer)) return;
    const size_t n = strlen(err->msg);
    (void)snprintf(err->msg + n, sizeof err->msg - n,
                   "; %.200s.part is kept, the same command continues", r->opts->out_path);
}

static fg_status write_data(run *r, fg_err *err)
{
    const uint64_t n = fg_writer_n_tensor(r->writer);
    for (uint64_t i = r->next_tensor; i < n;) {
        const fg_tensor *t = fg_writer_tensor(r->writer, i);
        const size_t group = t->role == FG_ROLE_EXPERT_GATE ? GROUP : 1;
        if (fg_role_is_vector((fg_role)t->role)) {
            r->spooling = false;
            FG_TRY(write_vector(r, t, err));
            fg_writer_set_error(r->writer, i, &(fg_tensor_error){0});
        } else {
            FG_TRY(write_matrices(r, i, group, err));
        }
        i += group;
        FG_TRY(save(r, i, err));
    }
    return fg_writer_pad(r->writer,
                         fg_writer_data_offset(r->writer) + fg_writer_data_bytes(r->writer), err);
}

/* --- the whole --- */

/* The recipe that a budget gives, in place of one that the caller names. */
static fg_status choose_recipe(run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    fg_budget_opts bo = {o->sensitivity_path, o->target_bpw, o->target_bytes, r->plan.config_bytes};
    fg_buf b = {0};
    for (size_t i = 0; i < N_OF(meta_files); i++) {
        struct stat sb;
        char *path = fg_io_join(o->src_dir, meta_files[i]);
        if (path == NULL) return fg_fail_nomem(err, meta_files[i]);
        if (stat(path, &sb) == 0) bo.meta_bytes += (uint64_t)sb.st_size;
        fg_mem_free(path);
    }
    fg_status st = print_provenance(r, NULL, &b, err);
    bo.meta_bytes += b.len;
    b.len = 0;
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

static fg_status prepare(run *r, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    FG_TRY(check_output(o->out_path, err));
    FG_TRY(check_budget(o, err));
    if (o->sensitivity_path == NULL) {
        FG_TRY(fg_recipe_load(&r->recipe, o->type, o->recipe_path, err));
    }
    FG_TRY(fg_plan_open(&r->plan, o->src_dir, err));
    FG_TRY(check_not_input(r, err));
    if (o->sensitivity_path != NULL) FG_TRY(choose_recipe(r, err));
    if (o->calib_path != NULL) {
        FG_TRY(fg_calib_read_text(&r->calib_ids, &r->calib_hash, o->src_dir, o->calib_path, err));
    }
    FG_TRY(fg_recipe_check(&r->recipe, &r->plan.shape, o->recipe_path, err));
    FG_TRY(fg_writer_create(&r->writer, o->out_path, &r->plan.shape, err));
    FG_TRY(add_metadata(r, err));
    FG_TRY(fg_writer_plan(r->writer, fg_recipe_choose, &r->recipe, err));
    return check_calibration(r, err);
}

/* Buffers for the longest row and the most rows of the planned tensors. */
static fg_status allocate(run *r, fg_err *err)
{
    uint64_t widest = 0; /* largest matrix: what the spool may hold at once, short of padding */
    uint64_t max_cols = 0, max_rows = 0;
    for (uint64_t i = 0; i < fg_writer_n_tensor(r->writer); i++) {
        const fg_tensor *t = fg_writer_tensor(r->writer, i);
        const uint64_t n = FG_PANEL_ROWS * fg_n_panel(t->n_row);
        if (t->n_col > max_cols) max_cols = t->n_col;
        if (n > max_rows) max_rows = n;
        const uint64_t bytes = fg_n_panel(t->n_row) * fg_panel_bytes((fg_qtype)t->type, t->n_col);
        if (bytes > widest) widest = bytes;
    }
    uint64_t reserve = widest > SPOOL_BYTES ? widest - SPOOL_BYTES : 0;
    if (r->opts->calib_path != NULL) {
        reserve += fg_calib_disk_bytes(&r->plan.shape, r->calib_ids.len);
    }
    fg_writer_reserve(r->writer, reserve);
    r->hash = fg_mem_zalloc_array((size_t)r->plan.n_weight, sizeof *r->hash);
    r->row_scale = fg_mem_zalloc_array((size_t)(GROUP * max_rows), sizeof *r->row_scale);
    r->scale_bytes = fg_mem_zalloc_array((size_t)max_rows, sizeof(float));
    if (r->hash == NULL || r->row_scale == NULL || r->scale_bytes == NULL) {
        return fg_fail_nomem(err, r->opts->out_path);
    }
    fg_source_init(&r->source, &r->plan.ckpt);
    fg_spool_init(&r->spool, r->opts->out_path, SPOOL_BYTES);
    FG_TRY(fg_team_create(&r->team, r->opts->n_thread, false, err));
    return fg_encoder_create(&r->encoder, r->team, &r->source, max_cols, err);
}

static fg_status still_wanted(void *ctx, fg_err *err)
{
    return tick(ctx, 0, err);
}

static fg_status begin_calibration(run *r, fg_err *err)
{
    const fg_model_file *view;
    if (r->opts->calib_path == NULL) return FG_OK;
    FG_TRY(fg_writer_view(r->writer, &view, err));
    const fg_calib_opts o = {!r->opts->calib_diagonal, r->opts->out_path, still_wanted, r};
    FG_TRY(fg_calib_create(&r->calib, view, r->team, r->calib_ids.data, r->calib_ids.len, &o, err));
    for (uint64_t i = 0; i < r->next_tensor; i++) {
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
    fg_source_init(&r->source, NULL);
    fg_spool_init(&r->spool, NULL, 0);
    fg_status st = prepare(r, err);
    if (st == FG_OK) st = allocate(r, err);
    if (st == FG_OK) st = begin_or_resume(r, err);
    if (st == FG_OK) st = begin_calibration(r, err);
    if (st == FG_OK) st = write_data(r, err);
    if (st == FG_OK) st = set_calibration(r, err);
    if (st == FG_OK) st = set_provenance(r, err);
    if (st == FG_OK) st = fg_writer_finish(r->writer, err);
    if (st == FG_OK && report != NULL) fill_report(r, start_ns, report);
    if (st != FG_OK) add_hint(r, err);
    run_fini(r);
    fg_mem_free(r);
    return st;
}
