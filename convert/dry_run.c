/* SPDX-License-Identifier: MIT
 *
 * A conversion up to its first byte, and what can be said of the rest.
 */
#include <string.h>
#include <unistd.h>

#include "convert/convert_impl.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/sys/disk.h"
#include "src/sys/team.h"

/* Program, libraries, stacks, read-ahead buffers. */
#define BASE_BYTES ((uint64_t)32 << 20)

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
    const uint64_t n = fg_writer_n_tensor(r->writer);
    const uint64_t n_chunk = fg_writer_data_bytes(r->writer) / FG_FILE_CHUNK;
    uint64_t header = 0; /* parsed, they take several times their length */
    for (size_t s = 0; s < r->plan.ckpt.n_shard; s++) header += r->plan.ckpt.shard[s].header_bytes;
    return BASE_BYTES + fg_encoder_bytes(n_thread, r->max_cols) + r->spool_bytes +
           (FG_WORK_TENSORS + 1) * r->max_rows * sizeof(float) + 4 * header +
           n * (sizeof(fg_tensor) + sizeof(fg_work) + sizeof(fg_piece)) + 9 * n_chunk;
}

/* That the folder is there the writer has seen; whether it can be written to, only trying tells. */
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
        f->part_bytes[k] = fg_writer_part_bytes(r->writer, k);
        f->part_free[k] = fg_disk_free_bytes(o->split_dir[k - 1]);
        f->parts_fit = f->parts_fit && fg_writer_drive_bytes(r->writer, k) <= f->part_free[k];
    }
    return FG_OK;
}

static fg_status fill(fg_run *r, fg_dry_run *f, fg_err *err)
{
    const fg_hf_checkpoint *c = &r->plan.ckpt;
    uint64_t bytes = 0;
    FG_TRY(fg_team_create(&r->team, r->opts->n_thread, false, err));
    f->n_thread = fg_team_size(r->team);
    f->n_shard = c->n_shard;
    for (size_t s = 0; s < c->n_shard; s++) f->n_here += fg_hf_is_known(c, s);
    f->source_bytes = r->plan.source_bytes;
    f->file_bytes = fg_writer_file_bytes(r->writer);
    f->n_tensor = fg_writer_n_tensor(r->writer);
    for (uint64_t i = 0; i < f->n_tensor; i++) {
        const fg_tensor *t = fg_writer_tensor(r->writer, i);
        add_tensor(f, t);
        f->n_weight += t->n_row * t->n_col;
        bytes += fg_tensor_bytes(t);
    }
    FG_TRY(fill_parts(r, f, err));
    f->bits_per_weight = 8.0 * (double)bytes / (double)f->n_weight;
    f->temp_bytes = r->reserve;
    f->memory_bytes = memory_bytes(r, f->n_thread);
    FG_TRY(fg_work_overlap(r, &f->overlap_bytes, err));
    return fg_run_space(r, &f->need_bytes, &f->free_bytes, err);
}

fg_status fg_convert_dry_run(const fg_convert_opts *opts, fg_dry_run *out, fg_err *err)
{
    fg_run *r = fg_mem_zalloc(sizeof *r);
    *out = (fg_dry_run){0};
    if (r == NULL) return fg_fail_nomem(err, opts->out_path);
    r->opts = opts;
    fg_shards_init(&r->source, NULL);
    fg_spool_init(&r->spool, NULL, 0);
    fg_status st = fg_run_prepare(r, err);
    if (st == FG_OK && opts->wait_for_shards) st = fg_work_look(r, err);
    if (st == FG_OK) st = fill(r, out, err);
    fg_run_fini(r);
    fg_mem_free(r);
    return st;
}
