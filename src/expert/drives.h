/* SPDX-License-Identifier: MIT
 *
 * Reading of long ranges of a model file from all its drives: one reader (fetch.h) for each part of
 * a split file (FORMAT.md 3.1), and one load for each part that has bytes of a range, so that one
 * expert comes from all drives at once.  A file that is not split has one part, and everything is
 * as with its reader.
 */
#ifndef FG_SRC_EXPERT_DRIVES_H
#define FG_SRC_EXPERT_DRIVES_H

#include "src/expert/fetch.h"
#include "src/format/reader.h"

typedef struct fg_drives fg_drives;

/* A range on its way.  Zero-initialised by the owner, who keeps it and dst until the drives are
 * destroyed or fg_drives_drain returned, and frees it with fg_range_fini then. */
typedef struct fg_range {
    uint8_t *dst;
    uint64_t offset, bytes; /* of the file, as it was started */
    /* the rest belongs to the drives */
    uint32_t n_load, n_stripe;
    struct fg_stripe *stripe; /* [n_part], n_stripe of them in the order of the range */
    fg_load *load;            /* [n_part], by part */
} fg_range;

void fg_range_fini(fg_range *r);

/* Opens all parts once more, and makes sure that they are still those of `file`, which is borrowed.
 * Errors: FG_EIO, FG_ENOMEM, FG_ENOTSUP (opts->ops), those of opening a model. */
fg_status fg_drives_create(fg_drives **out, const fg_model_file *file, const fg_fetch_opts *opts,
                           fg_err *err);
/* Waits for what is in flight.  Accepts NULL. */
void fg_drives_destroy(fg_drives **d);

/* As the functions of a reader, for all parts of the range.  Starting a range again that is still
 * in flight waits for it when the file is split: stripes of another expert lie elsewhere in dst. */
fg_status fg_drives_start(fg_drives *d, fg_range *r, uint8_t *dst, uint64_t offset, uint64_t bytes,
                          bool urgent, fg_err *err);
void fg_drives_cancel(fg_drives *d, fg_range *r);
bool fg_drives_hurry(fg_drives *d, fg_range *r);
bool fg_drives_wait(fg_drives *d, fg_range *r, uint64_t bytes);
void fg_drives_drain(fg_drives *d, fg_range *r);
fg_status fg_drives_take_error(fg_drives *d, fg_err *err);

/* Sums, but busy_ns: of the drive that was busy longest, so that bytes / busy_ns is the rate of all
 * together; and direct: all are. */
fg_fetch_stats fg_drives_get_stats(fg_drives *d);

#endif
