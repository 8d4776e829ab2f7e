/* SPDX-License-Identifier: MIT
 *
 * Chooses the next token from logits.  A sampler owns its settings, its random state and work
 * arrays for one vocabulary; it belongs to one thread.  The same logits, settings and seed give the
 * same choice on every machine: weights are doubles from our own exponential, sums run in a fixed
 * order, candidates are ordered by logit (descending), then by id (ascending).
 *
 * Order of the steps, as in Hugging Face's generate: penalties and bias, temperature, top-k, top-p,
 * min-p, draw.
 *   temperature T  weight of a token = e^((logit - largest logit) / T); T = 0: largest logit, ties
 *                  to the lower id, no random number is used
 *   top-k          the k first candidates stay
 *   top-p          the shortest prefix of the candidates whose weight reaches p of the sum stays
 *   min-p          candidates with at least min_p times the weight of the first stay
 * The first candidate always stays.  One random number is used for each draw.
 */
#ifndef FG_SRC_TEXT_SAMPLER_H
#define FG_SRC_TEXT_SAMPLER_H

#include <stdint.h>

#include "src/base/rng.h"
#include "src/base/status.h"
#include "src/fulgur.h"

/* mask: (n_vocab + 63) / 64 words, copied; bit i % 64 of word i / 64 says that id i may be chosen
 * (fg_tokenizer_mask); NULL: every id.  Errors: FG_EINVAL (a setting out of range, no id allowed),
 * FG_ENOMEM. */
fg_status fg_sampler_create(fg_sampler **out, const fg_sampler_opts *options, uint32_t n_vocab,
                            const uint64_t *mask, fg_err *err);

/* logits: [n_vocab] f32.  *id: the choice.  logprob may be NULL; it receives the natural logarithm
 * of the choice's probability at temperature 1 among all allowed ids, before penalties and bias.  A
 * NaN or +infinity anywhere, or no allowed logit above -infinity, is FG_EDATA; the random state is
 * then unchanged. */
fg_status fg_sampler_pick(fg_sampler *s, const float *logits, uint32_t *id, double *logprob,
                          fg_err *err);

/* A reply after these n ids begins, for the penalties; and each id of it.  FG_ENOMEM. */
fg_status fg_sampler_begin(fg_sampler *s, const uint32_t *ids, size_t n, fg_err *err);
void fg_sampler_note(fg_sampler *s, uint32_t id);

/* The random state, to save and continue a session. */
fg_rng fg_sampler_rng(const fg_sampler *s);
void fg_sampler_set_rng(fg_sampler *s, fg_rng rng);

#endif
