/* SPDX-License-Identifier: MIT
 *
 * What quantizing each unit (src/model/quant_unit.h) alone does to the model's predictions: the KL
 * divergence on a text that replacing the unit's weights in a good file (BASE) by those of a coarse
 * one (LOW) causes.  convert/choose/budget.h chooses types from it.
 *
 * One pass through the layers.  For layer l the activations of the whole text sample are carried
 * once as BASE has them, and once for each unit of earlier layers as they became when that unit was
 * replaced; all these streams pass through the layer with BASE's weights, and four new streams
 * branch off from the base stream with one unit of the layer replaced.  At the end the logits of
 * all streams are compared with those of the base stream.  So the weights of a layer are in use for
 * one stretch of time only and a file larger than memory is read once; activations live in a mapped
 * file without a name, (2 + 4 n_layer) * tokens * d_model * 4 bytes.
 *
 * BASE should be f32 or bf16.  A quantized one is accepted, but there any change, however small,
 * makes all later activations round anew, which costs every unit the same few thousandths and hides
 * its own share (nano, q8 BASE: the units add up to twice what all of LOW costs; f32: to 0.97
 * times).
 *
 * Cost: 2 n_layer + 4 forward passes of the sample, and lm_head for each stream.
 */
#ifndef FG_SRC_EVAL_SENSITIVITY_H
#define FG_SRC_EVAL_SENSITIVITY_H

#include "src/engine/engine.h"
#include "src/model/quant_unit.h"

enum {
    FG_SENSITIVITY_WINDOW = 512, /* tokens evaluated together, from an empty state */
    FG_SENSITIVITY_TOKENS = 2048,
};

typedef struct fg_sensitivity_opts {
    uint64_t
        n_token; /* FG_SENSITIVITY_TOKENS; used are whole windows, spread evenly over the text, at
                         * least one and at most what the text has */
    const char *beside; /* path beside which temporary files go */
    /* With window passes done and total; false cancels.  May be NULL. */
    bool (*progress)(void *ctx, uint64_t done, uint64_t total);
    void *ctx;
} fg_sensitivity_opts;

typedef struct fg_sensitivity_unit {
    double kld; /* mean over the tokens of KL(BASE || BASE with this unit of LOW), nats */
    double
        err2; /* squared relative error of LOW's weights, mean over the weights; NaN: not known */
    uint64_t n_weight;
    double bits; /* of LOW, per weight */
    fg_qtype type;
} fg_sensitivity_unit;

/* Zero-initialise; free with fg_sensitivity_fini. */
typedef struct fg_sensitivity {
    uint32_t n_unit, window;
    uint64_t n_token;
    fg_sensitivity_unit *unit; /* [n_unit], by fg_quant_unit_at */
} fg_sensitivity;

/* ids[n]: the text.  The engines give files, CPU level and number of threads; their sessions are
 * not touched.  The same files, ids and options give the same figures, bit for bit, for any thread
 * count and CPU level.  Errors: FG_EINVAL (no tokens, an id, files of different shape or of
 * different checkpoints, a unit of LOW that is not quantized or of mixed types), FG_EDATA (logits
 * not finite), FG_EIO (temporary file), FG_ENOMEM, FG_ECANCEL. */
fg_status fg_sensitivity_run(fg_sensitivity *out, fg_engine *base, fg_engine *low,
                             const uint32_t *ids, size_t n, const fg_sensitivity_opts *opts,
                             fg_err *err);
void fg_sensitivity_fini(fg_sensitivity *s);

/* Appends the sensitivity file: JSON, version 1, one unit a line. */
void fg_sensitivity_put_json(fg_buf *b, const fg_sensitivity *s, const fg_engine *base,
                             const fg_engine *low, uint64_t text_hash, uint64_t text_bytes);

#endif
