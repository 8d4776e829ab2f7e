/* SPDX-License-Identifier: MIT
 *
 * The insides of a conversion, shared by convert.c (what is written), metadata.c, work.c (in which
 * order, from which shards, and what of them is still needed), notices.c (what is said on the way)
 * and dry_run.c.
 *
 * A piece of work is what is encoded together: one tensor, or gate, up and down of an expert.  The
 * release's shards are expert-major inside a group of some 20 layers, the file is layer-major.  A
 * plain conversion takes them as the shards have them, so that a shard is needed once and for a
 * short time; a calibrated one must take them in file order, so that a group's shards (up to 240
 * GB) are needed together.
 */
#ifndef FG_CONVERT_CONVERT_IMPL_H
#define FG_CONVERT_CONVERT_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "convert/calib/calib.h"
#include "convert/choose/recipe.h"
#include "convert/convert.h"
#include "convert/encode.h"
#include "convert/metadata.h"
#include "convert/source/catalog.h"
#include "convert/source/shards.h"
#include "convert/spool.h"
#include "src/base/buf.h"
#include "src/format/write/writer.h"

/* An expert of the release takes 90 MB at q4 and 175 MB at q8; embedding and lm_head, 1.3 GB at q8,
 * overflow into a file. */
#define FG_SPOOL_BYTES ((uint64_t)192 << 20)
/* Calibration runs gate and up of an expert from the spool's memory. */
#define FG_CALIB_SPOOL_BYTES ((uint64_t)1 << 30)

enum {
    FG_WORK_TENSORS = 3, /* at most: those of an expert */
};

typedef struct fg_work {
    uint64_t first; /* tensor */
    uint32_t n;
    uint32_t n_shard; /* distinct */
    uint32_t shard[FG_WORK_TENSORS];
    uint32_t last_shard; /* the largest of them */
    bool done;
} fg_work;

/* A shard, as the conversion sees it. */
typedef struct fg_supply {
    uint64_t left;    /* pieces of work that still need it */
    bool here;        /* its file may be read */
    bool logged;      /* its header is in the journal */
    bool gone;        /* consumed, and deleted or left alone for good */
    uint64_t bytes;   /* of a file that is watched as it grows */
    int64_t mtime_ns; /* likewise */
    uint64_t since;   /* clock when it last changed */
} fg_supply;

/* What is read. */
typedef struct fg_run_inputs {
    fg_catalog catalog;
    fg_shards shards;
    fg_supply *supply; /* [catalog.ckpt.n_shard] */
    uint64_t polled_ns;
    fg_recipe recipe;
    fg_ids calib_ids;
    uint64_t calib_hash; /* of the text */
    fg_utf8_flaws calib_flaws;
    bool has_tokenizer;
    uint64_t n_link; /* shards here that delete_consumed leaves alone */
} fg_run_inputs;

/* What is done, in which order, and with what. */
typedef struct fg_run_work {
    fg_work *list; /* [n] in the order of the work */
    size_t n, next;
    uint64_t max_cols, max_rows; /* longest row, most rows (padded) of a tensor */
    uint64_t spool_bytes;        /* most panels in memory */
    uint64_t temp_bytes;         /* of temporary files beside OUT */
    fg_team *team;
    fg_encoder *encoder;
    fg_calib *calib; /* NULL: not wanted */
    fg_spool spool;
    float *row_scale; /* [FG_WORK_TENSORS * max_rows] */
} fg_run_work;

/* What is written. */
typedef struct fg_run_output {
    fg_metadata meta;
    fg_part_drives drives;
    fg_file_plan *plan;
    fg_writer *writer; /* NULL for a dry run */
} fg_run_output;

/* How far it is. */
typedef struct fg_run_progress {
    uint64_t *hash;         /* [catalog.n_weight] of the source bytes */
    fg_buf new_tensor;      /* u64 indices of those that are done since the last checkpoint */
    uint64_t done_bytes;    /* of the source */
    uint64_t resumed_bytes; /* of them, by earlier lives */
    uint8_t *hashed;        /* [catalog.n_weight] the journal had hash[i] */
    uint64_t n_zero;        /* matrices that are zero throughout */
    uint64_t n_deleted, deleted_bytes, n_left_alone; /* shards */
    double worst_rms;
    uint64_t worst_idx;
} fg_run_progress;

/* One conversion.  fg_run_init, then freed by fg_run_fini in any case. */
typedef struct fg_run {
    const fg_convert_opts *opts;
    fg_run_inputs in;
    fg_run_work work;
    fg_run_output out;
    fg_run_progress progress;
} fg_run;

void fg_run_init(fg_run *r, const fg_convert_opts *opts);
/* What a conversion does before it opens OUT.part: catalog, recipe, metadata, plan, order of the
 * work. */
fg_status fg_run_prepare(fg_run *r, fg_err *err);
void fg_run_fini(fg_run *r);

/* Index of a tensor's weight in catalog and hash. */
uint64_t fg_run_weight(const fg_run *r, const fg_tensor *t);
/* Free bytes on OUT's file system, and what the rest of the work needs there. */
fg_status fg_run_space(const fg_run *r, uint64_t *need, uint64_t *free_bytes, fg_err *err);
/* Calls progress; n more source bytes are done.  FG_ECANCEL. */
fg_status fg_run_tick(void *run, uint64_t n, fg_err *err);

/* --- notices.c --- */

/* No tokenizer, links, text: what is to be said before the work; FG_EINVAL where it would be lost
 * with the shards. */
fg_status fg_run_tell_before(fg_run *r, fg_err *err);
/* A tensor that is zero throughout: FG_EDATA where no model can be. */
fg_status fg_run_tell_zero(fg_run *r, uint64_t idx, fg_err *err);
/* Those that earlier lives had. */
void fg_run_recall_zeros(fg_run *r);
/* What is to be said at the end. */
void fg_run_tell_after(const fg_run *r);
/* Damage that a resume has found: fg_resume_calls. */
void fg_run_tell_damage(void *run, uint64_t bytes, uint64_t offset);
/* A full disk (fg_io_on_full). */
bool fg_run_full(void *run, const char *path, uint64_t bytes);

/* --- metadata.c --- */

/* Reads and checks the copied files, and adds provenance: all metadata that does not hang on the
 * recipe. */
fg_status fg_run_copy_files(fg_run *r, fg_err *err);
/* Adds the rest; blanks for what is known at the end. */
fg_status fg_run_add_metadata(fg_run *r, fg_err *err);
fg_status fg_run_set_calibration(fg_run *r, fg_err *err);
fg_status fg_run_set_provenance(fg_run *r, fg_err *err);

/* --- work.c --- */

/* With the plan: what is to be done, in which order, who needs which shard. */
fg_status fg_work_create(fg_run *r, fg_err *err);

/* What to do next, an index, or the length of the list at the end; waits for its shards, or fails
 * when they are not there. */
fg_status fg_work_next(fg_run *r, size_t *out, fg_err *err);
/* Looks at all shards that may have come, and takes those that are complete. */
fg_status fg_work_look(fg_run *r, fg_err *err);
/* Waits until the headers of all shards are known. */
fg_status fg_work_wait_all(fg_run *r, fg_err *err);
void fg_work_set_done(fg_run *r, size_t idx);
/* Behind a checkpoint: deletes shards that nothing needs any more. */
fg_status fg_work_delete(fg_run *r, fg_err *err);
/* True for what it leaves alone: a symbolic link (lstat), or a file with other links. */
struct stat;
bool fg_work_is_link(const struct stat *sb);
/* True when a checkpoint would set shards free. */
bool fg_work_can_delete(const fg_run *r);

/* What a checkpoint says: headers that are new, hashes of tensors that are new.  fg_work_take reads
 * it back and notes their hashes; FG_EINVAL when a shard is another than then. */
fg_status fg_work_put(const fg_run *r, fg_buf *b, fg_err *err);
void fg_work_put_done(fg_run *r);
fg_status fg_work_take(void *run, const void *bytes, uint64_t n, fg_err *err);
/* When the writer has begun: what is done, whether it is of the shards that are there, and whether
 * those of the others are. */
fg_status fg_work_check(fg_run *r, fg_err *err);

/* Bytes that must be free on OUT's file system (that of the folder `beside`) for what is left to
 * do, what deleting shards gives back counted. */
fg_status fg_work_need(const fg_run *r, const char *beside, uint64_t *need, fg_err *err);
/* Most bytes of shards that must be there at once, when they come in order of name no sooner than
 * they are needed, and go when they are consumed. */
fg_status fg_work_overlap(const fg_run *r, uint64_t *bytes, fg_err *err);

#endif
