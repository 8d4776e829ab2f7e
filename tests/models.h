/* SPDX-License-Identifier: MIT
 *
 * Converted models for tests: made on demand in the program's temporary folder.  Nano's are made
 * once for all programs that have the same folder in FULGUR_TEST_MODELS, and copied from there.
 */
#ifndef FG_TESTS_MODELS_H
#define FG_TESTS_MODELS_H

#include "src/engine/session.h"

#define NANO_DIR "tests/models/m1-nano"

/* Path of `src` converted to `type`; NULL with a test failure when the conversion fails. */
const char *model_file(const char *src, const char *type);

/* Path of `src` converted with a built-in recipe and calibrated with `text`. */
const char *model_file_calibrated(const char *src, const char *recipe, const char *text);

/* Path of a text that nano itself wrote, sampled from its bf16 file: n_seq stories of n_tok tokens
 * each.  Text and tokens are the same on every machine; another seed, other stories.  Makes the
 * suite's quality figures where there are no books.  NULL with a test failure. */
const char *nano_text(uint64_t seed, uint32_t n_seq, uint32_t n_tok);

/* A copy of `src` in q4 at `to`, signed; *keys: the file of the key.  False with a test failure. */
bool model_sign(const char *src, const char *to, const char **keys);
/* Flips a bit of a file's byte. */
void model_flip(const char *path, uint64_t at);

/* The level of this name; NULL: auto; one that no build has when it names none. */
fg_cpu_level model_level(const char *cpu);

/* Opens a file; NULL with a test failure.  cpu NULL: auto. */
fg_engine *model_open_file(const char *path, uint32_t n_thread, const char *cpu);

/* Opens it; NULL with a test failure.  cpu NULL: auto. */
fg_engine *model_open(const char *src, const char *type, uint32_t n_thread, const char *cpu);

/* Session with defaults but n_ctx and n_batch; NULL with a test failure. */
fg_session *model_session(fg_engine *e, uint64_t n_ctx, uint32_t n_batch);
/* The same with a key-value cache of the caller's choice. */
fg_session *model_session_kv(fg_engine *e, uint64_t n_ctx, uint32_t n_batch, fg_kv_choice kv);

/* Logits of every token, [n][n_vocab], malloc'ed; tokens are given `step` at a time (0: all at
 * once).  NULL with a test failure. */
float *model_logits(fg_session *s, fg_engine *e, const uint32_t *ids, size_t n, size_t step);

#endif
