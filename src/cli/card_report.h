/* SPDX-License-Identifier: MIT
 *
 * What doctor and plan say of a card.
 */
#ifndef FG_SRC_CLI_CARD_REPORT_H
#define FG_SRC_CLI_CARD_REPORT_H

#include "src/base/buf.h"
#include "src/plan/card.h"

/* ---- doctor ---- */

enum { CARDS_SHOWN = 8 };
typedef struct cards {
    uint32_t n, n_shown;
    struct {
        fg_gpu_card card;
        fg_gpu_card_measured more;
        fg_err err; /* why it could not be measured; FG_OK: it was */
    } card[CARDS_SHOWN];
    char none[400]; /* why there is none, n == 0 */
} cards;
/* Card idx of this machine, from memory of each of its nodes; errors: fg_gpu_card_measure. */
fg_status card_measure(fg_gpu_card *c, fg_gpu_card_measured *more, uint32_t idx, fg_err *err);
void cards_measure(cards *c);
void cards_print(const cards *c);
void cards_put(const cards *c, fg_buf *b); /* "\"gpus\": [...], \"gpu_error\": ..." */

/* ---- plan ---- */

void card_plan_print(const fg_gpu_card *c, const fg_gpu_card_forecast *f, uint64_t n_ctx,
                     uint32_t n_batch);
/* "\"gpu\": {...}" */
void card_plan_put(const fg_gpu_card *c, const fg_gpu_card_forecast *f, uint32_t n_batch,
                   fg_buf *b);

#endif
