/* SPDX-License-Identifier: MIT
 *
 * The predictors that know tokens (src/factor/routing_row.h), as rows of predict.h.
 */
#ifndef FG_SRC_EXPERT_PREDICT_FACTOR_H
#define FG_SRC_EXPERT_PREDICT_FACTOR_H

#include "src/factor/routing_row.h"

/* Of the state of fg_predict_factor or fg_predict_both. */
const fg_routing_model *fg_factor_learned(void *state);

#endif
