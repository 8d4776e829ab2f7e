/* SPDX-License-Identifier: MIT
 *
 * What of a signed file has been compared with its seal so far.  Whoever opens it has everything
 * that each token uses compared at once; an expert waits until somebody asks for it, and then each
 * of its chunks is compared once, by whichever thread comes first.  Afterwards asking costs one
 * atomic load.
 *
 * A chunk counts for good: what is read again, by a mapping or into a slot, is believed to be what
 * it was.  Any function of an open gate may be called from any thread.
 */
#ifndef FG_SRC_FORMAT_GATE_H
#define FG_SRC_FORMAT_GATE_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/format/seal.h"

typedef struct fg_gate fg_gate;

/* Takes the seal over (closed on failure too); f is borrowed.  Compares all chunks that hold
 * something which is no expert's, as the pass says, and with `all` the experts' as well.  Errors:
 * those of fg_seal_check_data. */
fg_status fg_gate_open(fg_gate **out, fg_seal *seal, const fg_model_file *f, bool all,
                       const fg_seal_pass *pass, fg_err *err);
void fg_gate_close(fg_gate **g); /* accepts NULL */

/* Whether all chunks of an expert have been compared and are right. */
bool fg_gate_has(fg_gate *g, uint32_t layer, uint32_t expert);

/* Compares what is left of the chunks with bytes[n], which are the file's at `offset`; what of the
 * first and the last chunk is not among them is read.  NULL: all is read.  Several threads that
 * come at once with the same range share its chunks.  False: fg_gate_error has the reason. */
bool fg_gate_pass(fg_gate *g, uint64_t offset, uint64_t n, const uint8_t *bytes);
/* The same for an expert, of the file. */
bool fg_gate_expert(fg_gate *g, uint32_t layer, uint32_t expert);

/* Why a chunk did not pass, the first that did not; FG_OK: none.  It stays: whoever waits for that
 * chunk may be in another thread than whoever asks here, and must not be told that all is well. */
fg_status fg_gate_error(fg_gate *g, fg_err *err);

/* Bytes compared when it was opened and since, and how long the latter took, summed over
 * threads. */
typedef struct fg_gate_stats {
    uint64_t opened, later, later_ns;
} fg_gate_stats;
fg_gate_stats fg_gate_get_stats(fg_gate *g);

#endif
