/* SPDX-License-Identifier: MIT
 *
 * The layout of a file: where everything stands (FORMAT.md 3 and 5), from the model's shape, the
 * type of each tensor and the sizes of the metadata alone.  Nothing is opened, and no file needs to
 * exist: who wants to know how large a file would be makes a plan and asks it.  A writer fills a
 * finished plan with bytes; a reader plans the data region again and refuses a file that says
 * otherwise.
 *
 * A plan never changes once it is made; it may be used from any thread.
 */
#ifndef FG_SRC_FORMAT_FILE_PLAN_H
#define FG_SRC_FORMAT_FILE_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/format/format.h"

typedef struct fg_file_plan fg_file_plan;

/* Type of a tensor, decided by the caller (recipe); not asked for norms and routers, which are
 * f32. */
typedef struct fg_tensor_choice {
    fg_qtype type;
    fg_lut lut;  /* for q4 */
    bool rotate; /* stored as W R (FORMAT.md 6.2); gate and up of an expert alike */
} fg_tensor_choice;
typedef fg_tensor_choice fg_choose_fn(void *ctx, fg_role role, uint32_t layer, uint32_t expert);

/* An entry of metadata.  A plan asks for key and size only. */
typedef struct fg_meta {
    const char *key; /* 1 to 255 bytes of printable ASCII, unique */
    const void *data;
    uint64_t bytes; /* may be 0 */
} fg_meta;

/* All that determines a layout.  Borrowed for the call. */
typedef struct fg_file_spec {
    const fg_shape *shape;
    fg_choose_fn *choose;
    void *ctx;
    const fg_meta *meta; /* [n_meta] in any order */
    size_t n_meta;
    uint32_t n_part; /* files that it is split into (FORMAT.md 3.1); 0 or 1: one */
    bool sealed;     /* has the key "sha256" besides (4.5), which the writer makes itself */
} fg_file_spec;

/* name: object of messages.  *out is destroyed by fg_file_plan_destroy.  Errors: FG_ESHAPE,
 * FG_EINVAL (a key, a type, a rotation, n_part), FG_ELIMIT, FG_ENOMEM. */
fg_status fg_file_plan_make(fg_file_plan **out, const fg_file_spec *spec, const char *name,
                            fg_err *err);
void fg_file_plan_destroy(fg_file_plan **p); /* accepts NULL; *p becomes NULL */

const fg_shape *fg_file_plan_shape(const fg_file_plan *p);

/* Tensors in file order; borrowed. */
uint64_t fg_file_plan_n_tensor(const fg_file_plan *p);
const fg_tensor *fg_file_plan_tensor(const fg_file_plan *p, uint64_t idx);
/* Parameters of all tensors, and their bytes without padding between tensors. */
void fg_file_plan_sums(const fg_file_plan *p, uint64_t *n_weight, uint64_t *bytes);

/* Where what belongs to tensor idx begins, absolute, and so where what belongs to the one before
 * ends; idx = n_tensor: the end of the data.  The same for the three of an expert. */
uint64_t fg_file_plan_place(const fg_file_plan *p, uint64_t idx);

uint64_t fg_file_plan_data_offset(const fg_file_plan *p);
uint64_t fg_file_plan_data_bytes(const fg_file_plan *p);
uint64_t fg_file_plan_file_bytes(const fg_file_plan *p);

/* Parts, 1 when it is not split; how many bytes of [from, to) stand in part k, 0 being the main
 * file. */
uint32_t fg_file_plan_n_part(const fg_file_plan *p);
uint64_t fg_file_plan_share(const fg_file_plan *p, uint32_t part, uint64_t from, uint64_t to);

#endif
