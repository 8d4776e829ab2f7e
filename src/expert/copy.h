/* SPDX-License-Identifier: MIT
 *
 * All weights in memory of the process, each node's part (slices.h) in its own area: anonymous, or
 * an image on hugetlbfs or tmpfs, which outlives the process and is found there by the next one.
 *
 * An image is one file: a head that says of which model and which slices it is, then the areas.  It
 * is complete only when its head says so, which is written last; who fills it holds a lock, who
 * uses it a shared one.
 *
 * Anonymous memory may be without what a device has: experts, which are read when they are used
 * here after all, and go when the device has them again; and the dense products (slices.h), which
 * then are used where they are mapped.
 */
#ifndef FG_SRC_EXPERT_COPY_H
#define FG_SRC_EXPERT_COPY_H

#include "src/expert/fetch.h"
#include "src/expert/slices.h"
#include "src/expert/slots.h"
#include "src/format/reader.h"

typedef struct fg_copy fg_copy;

typedef struct fg_copy_opts {
    fg_pages pages;
    const char *image; /* NULL: anonymous memory */
    fg_fetch_opts io;
    bool later; /* of anonymous memory: fg_copy_fill is to read all of it */
    /* With bytes done and total; returns false to cancel (FG_ECANCEL).  May be NULL. */
    bool (*progress)(void *ctx, uint64_t done, uint64_t total);
    void *ctx;
} fg_copy_opts;

/* Reads the weights, unless an image has them.  `file` and `slices` are borrowed.  Errors:
 * FG_ENOMEM, FG_EIO, FG_ENOTSUP (io), FG_EINVAL (what stands at the image's path is none, or of
 * another model or other slices; it is left alone), FG_ECANCEL. */
fg_status fg_copy_create(fg_copy **out, const fg_model_file *file, const fg_slices *slices,
                         const fg_copy_opts *o, fg_err *err);
void fg_copy_destroy(fg_copy **c); /* accepts NULL; an image stays */

/* After fg_copy_create with o->later: everything, or with `skip` all but the dense products and
 * the experts that it says; nothing where an image has everything.  Errors: those of
 * fg_copy_create. */
fg_status fg_copy_fill(fg_copy *c, bool (*skip)(const void *of, uint32_t layer, uint32_t expert),
                       const void *of, const fg_copy_opts *o, fg_err *err);
bool fg_copy_has(const fg_copy *c, uint32_t layer, uint32_t expert);
bool fg_copy_has_products(const fg_copy *c);
/* Nobody reads it meanwhile: it is there afterwards.  Errors: FG_ENOMEM, FG_EIO, FG_ENOTSUP. */
fg_status fg_copy_need(fg_copy *c, uint32_t layer, uint32_t expert, fg_err *err);
/* Its memory is given back, where it can be. */
void fg_copy_drop(fg_copy *c, uint32_t layer, uint32_t expert);

/* A node's area; borrowed. */
const uint8_t *fg_copy_area(const fg_copy *c, uint32_t node);

/* Bytes of memory that were read into; 0 when an image had everything, less when a device has. */
uint64_t fg_copy_read_bytes(const fg_copy *c);

#endif
