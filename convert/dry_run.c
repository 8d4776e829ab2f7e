/* SPDX-License-Identifier: MIT
 *
 * A conversion up to its first byte, and what can be said of the rest.
 */
#include "convert/dry_run.h"

#include <string.h>
#include <unistd.h>

#include "convert/convert_impl.h"
#include "convert/source/hf_config.h"
#include "convert/synth.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/base/units.h"
#include "src/sys/disk.h"
#include "src/sys/team.h"

/* Program, libraries, stacks, read-ahead buffers. */
#define BASE_BYTES ((uint64_t)32 << 20)

enum { RELEASE_LAYERS = 80 }; /* of MiniMax-M1 */

static void add_tensor(fg_dry_run *f, const fg_tensor *t)
{
    size_t i = 0;
    while (i < f->n_sum && (f->sum[i].role != (fg_role)t->role || f->sum[i].type != t->type)) i++;
    if (i == f->n_sum) { /* kept in order of role, then type */
        if (f->n_sum == FG_DRY_RUN_MAX_SUM) return;
        while (i > 0 &&
               (f->sum[i - 1].role > (fg_role)t->role ||
                (f->sum[i - 1].role == (fg_role)t->role && f->sum[i - 1].type > t->type))) {
            f->sum[i] = f->sum[i - 1];
            i--;
        }
        f->sum[i] = (fg_dry_run_sum){.role = (fg_role)t->role, .type = t->type};
        f->n_sum++;
    }
    f->sum[i].n_tensor++;
    f->sum[i].n_weight += t->n_row * t->n_col;
    f->sum[i].bytes += fg_tensor_bytes(t);
}

static uint64_t memory_bytes(const fg_run *r, uint32_t n_thread)
{
    const uint64_t n = fg_file_plan_n_tensor(r->out.plan);
    const uint64_t n_chunk = fg_file_plan_data_bytes(r->out.plan) / FG_FILE_CHUNK;
    uint64_t header = 0; /* parsed, they take several times their length */
    for (size_t s = 0; s < r->in.catalog.ckpt.n_shard; s++)
        header += r->in.catalog.ckpt.shard[s].header_bytes;
    return BASE_BYTES + fg_encoder_bytes(n_thread, r->work.max_cols) + r->work.spool_bytes +
           FG_WORK_TENSORS * r->work.max_rows * sizeof(float) + 4 * header +
           n * (2 * sizeof(fg_tensor) + sizeof(fg_work) + sizeof(fg_piece)) + 9 * n_chunk;
}

/* That the folder is there prepare has seen; whether it can be written to, only trying tells. */
static fg_status check_writable(const char *dir, uint32_t part, fg_err *err)
{
    int fd = -1;
    char *inside = fg_io_join(dir, "part");
    if (inside == NULL) return fg_fail_nomem(err, dir);
    const fg_status st = fg_io_open_unnamed(&fd, inside, NULL);
    fg_mem_free(inside);
    if (fd >= 0) (void)close(fd);
    if (st == FG_OK) return FG_OK;
    return fg_fail(err, st, "%s: cannot be written to, expected a folder for part %u", dir, part);
}

static fg_status fill_parts(const fg_run *r, fg_dry_run *f, fg_err *err)
{
    const fg_convert_opts *o = r->opts;
    f->n_part = o->n_split + 1;
    f->parts_fit = true;
    for (uint32_t k = 1; k < f->n_part; k++) {
        FG_TRY(check_writable(o->split_dir[k - 1], k, err));
        const fg_part_drives *d = &r->out.drives;
        f->part_bytes[k] = fg_file_plan_share(r->out.plan, k, 0, f->file_bytes);
        f->part_free[k] = fg_disk_free_bytes(o->split_dir[k - 1]);
        if (d->drive[k] == d->drive[0]) continue; /* in need_bytes */
        const uint64_t need = fg_part_drives_share(d, r->out.plan, k, 0, f->file_bytes);
        f->parts_fit = f->parts_fit && need <= f->part_free[k];
    }
    return FG_OK;
}

static fg_status fill(fg_run *r, fg_dry_run *f, fg_err *err)
{
    const fg_hf_checkpoint *c = &r->in.catalog.ckpt;
    uint64_t bytes;
    FG_TRY(fg_team_create(&r->work.team, r->opts->n_thread, false, err));
    f->n_thread = fg_team_size(r->work.team);
    f->n_shard = c->n_shard;
    f->has_tokenizer = r->in.has_tokenizer;
    f->n_link = r->in.n_link;
    for (size_t s = 0; s < c->n_shard; s++) f->n_here += fg_hf_is_known(c, s);
    f->source_bytes = r->in.catalog.source_bytes;
    f->file_bytes = fg_file_plan_file_bytes(r->out.plan);
    f->n_tensor = fg_file_plan_n_tensor(r->out.plan);
    fg_file_plan_sums(r->out.plan, &f->n_weight, &bytes);
    for (uint64_t i = 0; i < f->n_tensor; i++) add_tensor(f, fg_file_plan_tensor(r->out.plan, i));
    FG_TRY(fill_parts(r, f, err));
    f->bits_per_weight = fg_bits_per_weight(bytes, f->n_weight);
    f->temp_bytes = r->work.temp_bytes;
    f->memory_bytes = memory_bytes(r, f->n_thread);
    FG_TRY(fg_work_overlap(r, &f->overlap_bytes, err));
    return fg_run_space(r, &f->need_bytes, &f->free_bytes, err);
}

fg_status fg_convert_dry_run(const fg_convert_opts *opts, fg_dry_run *out, fg_err *err)
{
    fg_run *r = fg_mem_zalloc(sizeof *r);
    *out = (fg_dry_run){0};
    if (r == NULL) return fg_fail_nomem(err, opts->out_path);
    fg_run_init(r, opts);
    fg_status st = fg_run_prepare(r, err);
    if (st == FG_OK && opts->wait_for_shards) st = fg_work_look(r, err);
    if (st == FG_OK) st = fill(r, out, err);
    fg_run_fini(r);
    fg_mem_free(r);
    return st;
}

/* --- the plan alone --- */

/* Of a folder's shards their names count, nothing else. */
static fg_status add_shards(fg_metadata *m, const char *dir, const char *label, bool *exact,
                            fg_err *err)
{
    char single[] = FG_HF_SINGLE_NAME, *const one = single;
    fg_hf_index x = {0};
    char *index = fg_io_join(dir, FG_HF_INDEX_NAME), *shard = fg_io_join(dir, single);
    fg_status st = index == NULL || shard == NULL ? fg_fail_nomem(err, dir) : FG_OK;
    const bool sharded = st == FG_OK && fg_io_is_named(index);
    if (sharded) st = fg_hf_index_read(&x, dir, err);
    if (sharded && st == FG_OK)
        st = fg_metadata_add_provenance(m, label, x.shard_name, x.n_shard, err);
    if (!sharded && st == FG_OK) {
        *exact = fg_io_exists(shard);
        st = fg_metadata_add_provenance(m, label, &one, 1, err);
    }
    fg_hf_index_fini(&x);
    fg_mem_free(index);
    fg_mem_free(shard);
    return st;
}

/* dir NULL: a configuration alone, whose text is `config`. */
static fg_status add_metadata(fg_metadata *m, const char *dir, const char *config, size_t n_config,
                              const fg_recipe *recipe, const char *label, bool *exact, fg_err *err)
{
    *exact = dir != NULL;
    FG_TRY(fg_metadata_add(m, "recipe", recipe->text.data, recipe->text.len, err));
    if (dir == NULL) {
        FG_TRY(fg_metadata_add(m, "config.json", config, n_config, err));
        return fg_metadata_add_provenance(m, label, NULL, 0, err);
    }
    FG_TRY(fg_metadata_add_folder(m, dir, false, 0, err));
    return add_shards(m, dir, label, exact, err);
}

/* The configuration at `path`, or of the release where path is NULL and there is no text. */
static fg_status read_shape(fg_shape *out, const char *path, char **text, size_t *n, fg_err *err)
{
    static const fg_synth_opts release = {.shape = "m1", .n_layer = RELEASE_LAYERS};
    return path == NULL ? fg_synth_shape(out, &release, err)
                        : fg_hf_config_load(out, path, text, n, err);
}

/* From the configuration at `path`, as above; dir likewise. */
static fg_status plan_from(fg_file_plan **out, const char *path, const char *dir, fg_recipe *recipe,
                           const char *recipe_path, const char *label, bool *exact, fg_err *err)
{
    char *text = NULL;
    size_t n = 0;
    fg_shape shape;
    fg_metadata meta = {0};
    FG_TRY(read_shape(&shape, path, &text, &n, err));
    fg_status st = fg_recipe_check(recipe, &shape, recipe_path, err);
    if (st == FG_OK) st = add_metadata(&meta, dir, text, n, recipe, label, exact, err);
    fg_mem_free(text);
    const fg_file_spec spec = {&shape, fg_recipe_choose, recipe, meta.entry, meta.n, 0, true};
    if (st == FG_OK) st = fg_file_plan_make(out, &spec, path == NULL ? "m1" : path, err);
    fg_metadata_fini(&meta);
    return st;
}

fg_status fg_dry_run_plan(fg_file_plan **out, const char *source, const char *type,
                          const char *recipe, bool *exact, fg_err *err)
{
    fg_recipe r;
    *out = NULL;
    FG_TRY(fg_recipe_load(&r, type, recipe, err));
    const bool folder = fg_io_is_dir(source);
    const bool release = strcmp(source, "m1") == 0 && !fg_io_is_named(source);
    char *path = release  ? NULL
                 : folder ? fg_io_join(source, "config.json")
                          : fg_mem_strndup(source, strlen(source));
    fg_status st = path == NULL && !release
                       ? fg_fail_nomem(err, source)
                       : plan_from(out, path, folder ? source : NULL, &r, recipe,
                                   fg_recipe_label(type, recipe), exact, err);
    fg_mem_free(path);
    fg_recipe_fini(&r);
    return st;
}
