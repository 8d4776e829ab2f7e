/* SPDX-License-Identifier: MIT
 *
 * What the rooms above (eval, plan, bench, cli) see of an engine besides the public interface
 * (src/fulgur.h).
 */
#ifndef FG_SRC_ENGINE_ENGINE_H
#define FG_SRC_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/expert/store.h"
#include "src/format/reader.h"
#include "src/text/chat.h"
#include "src/text/sampler.h"
#include "src/text/stream.h"
#include "src/text/tokenizer.h"
#include "src/fulgur.h"
#include "src/model/device.h"
#include "src/model/weights.h"
#include "src/sys/team.h"

const fg_model_file *fg_engine_file(const fg_engine *e);
const fg_shape *fg_engine_shape(const fg_engine *e);
uint32_t fg_engine_n_thread(const fg_engine *e);
const char *fg_engine_cpu(const fg_engine *e);     /* kernel level in use */
const char *fg_engine_threads(const fg_engine *e); /* thread backend: "openmp" or "pthread" */
/* Weight bytes that one decoded token reads. */
uint64_t fg_engine_token_bytes(const fg_engine *e);

/* What the store did so far; NULL without ram_bytes.  Borrowed until the next call. */
const struct fg_store_stats *fg_engine_store_stats(fg_engine *e);

/* The tokenizer inside the file, built at the first call; borrowed.  FG_ENOTSUP when the file has
 * none. */
fg_status fg_engine_tokenizer(fg_engine *e, const fg_tokenizer **out, fg_err *err);

/* Bitmap of the ids that may be sampled (bit id % 64 of word id / 64): those with a token whose
 * lm_head row is not all zero.  Borrowed; built at the first call.  Without a tokenizer in the file
 * every id counts as having one. */
fg_status fg_engine_sample_mask(fg_engine *e, const uint64_t **mask, fg_err *err);

/* Features that the engine's kernels use, as src/sys/cpu.h has them. */
uint32_t fg_engine_cpu_flags(const fg_engine *e);

/* The card, for who makes states of his own; NULL without one. */
fg_device *fg_engine_device(const fg_engine *e);
/* The state gets its copy on the card, if there is one; where that cannot be and nobody asked for
 * the card by number, it goes without, and the engine's note says why. */
fg_status fg_engine_attach_state(fg_engine *e, fg_state *st, fg_scratch *s, fg_err *err);
/* What the card holds and did so far; false without one. */
bool fg_engine_device_stats(const fg_engine *e, fg_device_stats *out);

/* The expert store; NULL when the engine has no bound of memory. */
fg_store *fg_engine_store(fg_engine *e);
/* Where the weights are, for who makes a model of its own of them; and who computes. */
fg_home fg_engine_home(const fg_engine *e);
fg_team *fg_engine_team(fg_engine *e);

/* Tells the engine that memory besides weights grows by `more` and shrinks by `less` bytes: its
 * store gives up, or gets, as much.  FG_ELIMIT: the bound does not allow it; nothing changes.
 * Between evaluations only. */
fg_status fg_engine_charge(fg_engine *e, uint64_t more, uint64_t less, fg_err *err);
/* Bytes that it may grow by before a store that has room for all experts has no longer; UINT64_MAX
 * without a store. */
uint64_t fg_engine_spare(fg_engine *e);

#endif
