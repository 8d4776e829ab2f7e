/* SPDX-License-Identifier: MIT
 *
 * What a conversion would do and write, before it runs.
 */
#ifndef FG_CONVERT_DRY_RUN_H
#define FG_CONVERT_DRY_RUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "convert/convert.h"
#include "src/base/status.h"
#include "src/format/file_plan.h"

/* Tensors of one part of the model and one type. */
typedef struct fg_dry_run_sum {
    fg_role role;
    uint32_t type; /* fg_qtype */
    uint64_t n_tensor, n_weight, bytes;
} fg_dry_run_sum;

enum {
    FG_DRY_RUN_MAX_SUM = 64,
};

/* What a conversion would do. */
typedef struct fg_dry_run {
    uint64_t n_shard, n_here; /* of the index; whose headers could be read */
    uint64_t source_bytes;    /* to be read, each once */
    uint64_t file_bytes;      /* of OUT */
    uint64_t n_tensor, n_weight;
    double bits_per_weight;
    uint64_t temp_bytes; /* of temporary files beside OUT */
    uint64_t need_bytes; /* free space that OUT's folder must have, all counted */
    uint64_t free_bytes; /* that it has */
    /* Of a split OUT, what part k > 0 takes, and what its folder has; need_bytes counts what is on
     * OUT's file system.  n_part 1: not split. */
    uint32_t n_part;
    uint64_t part_bytes[FG_MAX_PART], part_free[FG_MAX_PART];
    bool parts_fit; /* those that are on other file systems than OUT */
    uint64_t
        overlap_bytes; /* of shards that must be there at once (delete_consumed, wait_for_shards) */
    uint64_t memory_bytes; /* without what calibration takes (calib.h) */
    uint32_t n_thread;
    bool has_tokenizer;
    uint64_t n_link; /* shards here that delete_consumed leaves alone */
    size_t n_sum;
    fg_dry_run_sum sum[FG_DRY_RUN_MAX_SUM]; /* by role, then type */
} fg_dry_run;

/* All checks of fg_convert before its first byte but that of free space, nothing is written.
 * Shards may be missing: their tensors are then supposed to be bf16 (routers f32). */
fg_status fg_convert_dry_run(const fg_convert_opts *opts, fg_dry_run *out, fg_err *err);

/* Only the plan of the file, with every size and place, where no shard needs to be there and none
 * is opened. source: a checkpoint folder, or a config.json alone, which is then the only metadata
 * besides recipe and provenance; "m1", where no file has that name, is the configuration of
 * MiniMax-M1.  type and recipe as in fg_convert_opts.  *exact: the file's size;
 * false for a configuration alone, or a folder that has neither index nor shard.  *out is destroyed
 * by fg_file_plan_destroy.  Errors: FG_EIO, FG_EFORMAT, FG_EINVAL, FG_ENOTSUP, FG_ESHAPE,
 * FG_ELIMIT, FG_ENOMEM. */
fg_status fg_dry_run_plan(fg_file_plan **out, const char *source, const char *type,
                          const char *recipe, bool *exact, fg_err *err);

#endif
