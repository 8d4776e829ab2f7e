/* SPDX-License-Identifier: MIT
 *
 * Proof that weights are where they should be: every page is brought in by a worker of the node
 * that owns it, asked for, and moved when it lies elsewhere, as a cache does that another process
 * has filled.  Nothing of it is believed without the kernel's word (move_pages).
 */
#ifndef FG_SRC_EXPERT_SETTLE_H
#define FG_SRC_EXPERT_SETTLE_H

#include "src/expert/slices.h"
#include "src/format/reader.h"
#include "src/sys/team.h"

/* Memory that a node owns: whole pages. */
typedef struct fg_region {
    uint8_t *p;
    uint64_t bytes;
    uint32_t node; /* of the placement */
    bool fresh;    /* anonymous memory that holds nothing yet: brought in by writing zeros */
    /* 0, or what a device may have instead: FG_REGION_DENSE, a matrix of attention or the head;
     * else 1 + layer * n_expert + expert. */
    uint64_t of;
} fg_region;
#define FG_REGION_DENSE UINT64_MAX

/* The regions of a mapped file, every page of its weights in one; a page of row scales belongs to
 * the first node that has panels of the matrix.  *out is freed with fg_mem_free.  FG_ENOMEM. */
fg_status fg_settle_regions_of_file(const fg_model_file *f, const fg_slices *s, fg_region **out,
                                    size_t *n, fg_err *err);

typedef enum fg_settle_mode {
    FG_SETTLE_LOOK,   /* asks only, for pages that this process has touched */
    FG_SETTLE_CACHED, /* asks for those too that are in the page cache; nothing is read */
    FG_SETTLE_ALL,    /* brings everything in, and moves what lies elsewhere */
} fg_settle_mode;

typedef struct fg_settle_opts {
    fg_settle_mode mode;
    /* From worker 0 with bytes done and total; false cancels (FG_ECANCEL).  May be NULL. */
    bool (*progress)(void *ctx, uint64_t done, uint64_t total);
    void *ctx;
} fg_settle_opts;

/* On all workers of the team, whose placement decides where pages belong.  audit[n_node] is added
 * to.  Errors: those of fg_place_audit, FG_ECANCEL. */
fg_status fg_settle(fg_team *team, const fg_region *region, size_t n, const fg_settle_opts *o,
                    fg_audit *audit, fg_err *err);

#endif
