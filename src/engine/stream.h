/* SPDX-License-Identifier: MIT
 *
 * The engine's expert store, for the parts of src/engine that run the model without a session.
 */
#ifndef FG_SRC_ENGINE_STREAM_H
#define FG_SRC_ENGINE_STREAM_H

#include "src/engine/fulgur.h"
#include "src/expert/store.h"

/* NULL when the engine has no bound of memory. */
fg_store *fg_engine_store(fg_engine *e);

/* Tells the engine that memory besides weights grows by `more` and shrinks by `less` bytes: its store
 * gives up, or gets, as much.  FG_ELIMIT: the bound does not allow it; nothing changes.  Between
 * evaluations only. */
fg_status fg_engine_charge(fg_engine *e, uint64_t more, uint64_t less, fg_err *err);

#endif
