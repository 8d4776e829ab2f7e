/* SPDX-License-Identifier: MIT
 *
 * The routing heat map of a model file: how often each expert was used on some text, kept inside
 * the file (metadata key "heat", JSON; FORMAT.md 4.2), so that a store knows which experts to hold
 * on to before it has seen a token.  It changes time only, never a bit.
 *
 * A new map takes the place of the old one: for several texts, trace them joined.
 */
#ifndef FG_SRC_EXPERT_HEAT_H
#define FG_SRC_EXPERT_HEAT_H

#include <stdint.h>

#include "src/base/buf.h"
#include "src/base/status.h"
#include "src/format/reader.h"

#define FG_HEAT_KEY "heat"

typedef struct fg_heat {
    char text[128];     /* name without folder, UTF-8 */
    uint64_t n_tok;     /* tokens it was counted over */
    uint64_t data_root; /* of the weights that routed them */
    uint64_t *use;      /* [n_layer * n_expert] tokens that used the expert, less than 2^53 */
} fg_heat;

/* The heat map of a file; h->use is freed with fg_mem_free, NULL when there is none.  FG_EFORMAT
 * when the entry is no heat map of a model of this shape and these weights; FG_ECHECKSUM. */
fg_status fg_heat_load(const fg_model_file *f, fg_heat *h, fg_err *err);

/* Appends the entry's JSON.  FG_EINVAL: a count of 2^53 or more; FG_ENOMEM. */
fg_status fg_heat_encode(fg_buf *b, const fg_heat *h, const fg_model_file *f, fg_err *err);

#endif
