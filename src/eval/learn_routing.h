/* SPDX-License-Identifier: MIT
 *
 * Routing models (src/factor/routing_model.h) from traces.
 */
#ifndef FG_SRC_EVAL_LEARN_ROUTING_H
#define FG_SRC_EVAL_LEARN_ROUTING_H

#include "src/eval/replay.h"

/* From the first `to` passes of each of n traces of one model (UINT64_MAX: all), one after the
 * other; how good the routers' own guesses are comes from the last trace.  Errors: those of
 * fg_replay_log and fg_routing_train. */
fg_status fg_learn_routing(fg_routing_model **out, const fg_trace *const *t, size_t n, uint64_t to,
                           const fg_routing_opts *o, const fg_factor_machine *machine,
                           fg_routing_report *report, fg_err *err);

#endif
