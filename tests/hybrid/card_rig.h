/* SPDX-License-Identifier: MIT
 *
 * An engine with the card that is none, a text, and the logits that the host alone gives it: what
 * the card's have to be, bit for bit.  For processes that fake_card_run made.
 */
#ifndef FG_TESTS_HYBRID_CARD_RIG_H
#define FG_TESTS_HYBRID_CARD_RIG_H

#include "src/engine/session.h"

/* The oracle's smallest with two layers of each kind and two key-value heads: a test on it takes
 * an emulated card a tenth of nano's time. */
#define TINY_DIR "tests/vectors/oracle/orig-base"

enum { CARD_MOST = 1300 };

typedef struct card_rig {
    fg_engine *e;
    uint32_t ids[CARD_MOST], n_vocab;
    size_t n;
    fg_kv_choice kv;
    float *want; /* [n][n_vocab] */
} card_rig;

/* A text, always the same; its first 300 tokens are those of the golden hash. */
void card_prompt(uint32_t *ids, size_t n, uint32_t n_vocab);

/* False with a test failure.  o: of the engine, which has the card, or may go without it if it says
 * FG_GPU_AUTO; NULL: one thread. */
bool card_rig_open(card_rig *r, const char *path, size_t n, fg_kv_choice kv,
                   const fg_engine_opts *o);
void card_rig_close(card_rig *r);

/* Session for all of the text. */
fg_session *card_session(const card_rig *r, uint32_t n_batch);

/* Evaluates the text up to position `to`, `step` tokens a call (0: all at once), and compares every
 * token's logits; false, with a test failure that names the token, when some differ. */
bool card_go_to(const card_rig *r, fg_session *s, uint64_t to, size_t step);
/* The same without a word: the first token that differs, or `to`. */
uint64_t card_first_other(const card_rig *r, fg_session *s, uint64_t to, size_t step);
/* The session's last logits are the text's. */
bool card_is_plain(const card_rig *r, const fg_session *s);

#endif
