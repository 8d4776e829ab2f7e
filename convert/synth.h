/* SPDX-License-Identifier: MIT
 *
 * Writes a model of random weights at real dimensions, for benchmarks: the file is what a
 * conversion of a checkpoint of that shape would give, but panels are made directly (random codes
 * and group scales), never quantized, so that it is written at the speed of the disk.
 *
 * The weights are chosen so that a forward pass meets numbers like those of a trained model: every
 * product has an output of rms about 1 for an input of rms 1, lightning keys and queries small
 * enough that silu leaves them almost without a mean (else all tokens share one direction and the
 * router favours few experts), logits with a deviation of 2.  With random tokens each expert gets
 * its share within a factor of about 2.
 *
 * Byte i of a tensor is a function of seed, tensor and i (a counter-based generator): the file does
 * not depend on thread count, memory or machine.
 */
#ifndef FG_CONVERT_SYNTH_H
#define FG_CONVERT_SYNTH_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/format/shape.h"

typedef struct fg_synth_opts {
    const char *out_path;
    const char *shape; /* "m1" (NULL means that): MiniMax-M1, or a config.json of either dialect */
    uint32_t n_layer;  /* 0: 4 for "m1", else as many as the configuration says */
    const char *type;  /* of fg_qtype_names; NULL: FG_RECIPE_TYPE: the recipes of
                              * fg_convert */
    const char *recipe_path;   /* lines after the built-in recipe; NULL: none */
    const char *tokenizer_dir; /* folder with tokenizer.json to store; NULL: none, and then run and
                                * chat refuse the file */
    const char *const *split_dir; /* [n_split] folders of parts 1 and on (FORMAT.md 3.1) */
    uint32_t n_split;             /* 0: one file */
    bool keep_existing;           /* OUT must not be there yet: FG_EINVAL */
    uint64_t seed;
    uint32_t n_thread; /* 0: all cores that this process may use */
    /* Called from the calling thread after each band, with bytes of OUT; false cancels.  May be
     * NULL. */
    bool (*progress)(void *ctx, uint64_t done_bytes, uint64_t total_bytes);
    void *ctx;
} fg_synth_opts;

typedef struct fg_synth_report {
    fg_shape shape;
    uint64_t file_bytes;
    uint64_t n_tensor;
    uint64_t n_weight;
    double seconds; /* with the final sync */
} fg_synth_report;

/* The shape of a run: that of opts->shape with n_layer layers.  Layer l has the attention kind of
 * layer l % L of the L configured ones; when that leaves no softmax layer among two or more, the
 * last one becomes softmax, so that a short model still exercises both kinds (M1: softmax at l % 8
 * == 7;
 * 4 layers: three lightning, one softmax). */
fg_status fg_synth_shape(fg_shape *out, const fg_synth_opts *opts, fg_err *err);

/* Replaces OUT only by the final rename, like a conversion.  report may be NULL.  Errors:
 * FG_EINVAL, FG_EIO (no room as well), FG_EFORMAT, FG_ENOTSUP, FG_ESHAPE, FG_ELIMIT, FG_ENOMEM,
 * FG_ECANCEL. */
fg_status fg_synth(const fg_synth_opts *opts, fg_synth_report *report, fg_err *err);

#endif
