/* SPDX-License-Identifier: MIT
 *
 * Calibration: runs a text through the model while it is being written, so that each matrix is
 * encoded with knowledge of its inputs.
 *
 * The half-written file is the model.  Tensors lie in the file in the order of the forward pass, so
 * when a matrix is about to be encoded everything before it is there, and its inputs are computed
 * by the run-time blocks of src/model from the written bytes: they carry the errors of all that was
 * quantized before, which the matrix can make up for, and each weight is read once.  Per layer the
 * whole text passes through one matrix group before the next group is encoded; activations live in
 * mapped files beside the output, second moments in memory (convert/calib/hessian.h).
 *
 * Every expert gets tokens: one that the router gave fewer than FG_CALIB_MIN_TOKENS also gets, for
 * its moments only, the tokens whose router weight for it comes closest to that of their best
 * expert.
 *
 * The room convert/calib says what a text makes of the inputs of a matrix (fg_feedback).  It sees
 * the half-written file as a model and nothing of checkpoint, recipe or writer; hessian.h has the
 * second moments.
 *
 * The bytes are a function of checkpoint, recipe, text and OpenBLAS with the kernels it chooses for
 * the CPU; not of threads.
 *
 * Cost over a plain conversion, N tokens: one forward pass, N k^2 multiplications for the moments
 * of each input of k columns, and about k^3 (2/3 + rows / 2k) to factor them and feed back.  At the
 * release's dimensions (one layer measured, Zen 5, 2 cores): 0.20 us of a core for each weight,
 * which is 25 core hours, and per 100,000 tokens about 16 for forward passes and moments; 1.6 GB
 * resident.
 */
#ifndef FG_CONVERT_CALIB_CALIB_H
#define FG_CONVERT_CALIB_CALIB_H

#include <stdint.h>

#include "quant/feedback.h"
#include "src/base/utf8.h"
#include "src/format/reader.h"
#include "src/sys/team.h"
#include "src/text/tokenizer.h"

enum {
    FG_CALIB_WINDOW = 512,     /* tokens of a window, each evaluated from an empty state */
    FG_CALIB_MIN_TOKENS = 512, /* of an expert; all tokens when the text is shorter */
};

typedef struct fg_calib fg_calib;

/* What calibration saw, for the report. */
typedef struct fg_calib_report {
    uint64_t n_token;
    uint64_t n_expert;   /* experts calibrated */
    uint64_t n_topped;   /* of them, experts that got tokens the router had not sent */
    uint64_t min_routed; /* fewest tokens that the router sent to an expert */
    uint64_t min_used;   /* fewest tokens that an expert was calibrated with */
    uint64_t n_dead;     /* inputs that were zero for the whole text: encoded without */
} fg_calib_report;

/* Token ids of the text at `path` by the tokenizer.json of the folder `dir`; markup in it (chat
 * turns) counts as such.  *hash: XXH3-64 of the text; *flaws: what of it is not UTF-8.  Free with
 * fg_ids_fini.  FG_EFORMAT also when more than 1 % is not UTF-8. */
fg_status fg_calib_read_text(fg_ids *ids, uint64_t *hash, fg_utf8_flaws *flaws, const char *dir,
                             const char *path, fg_err *err);

/* Bytes of the temporary files that calibration with n_token tokens needs. */
uint64_t fg_calib_disk_bytes(const fg_shape *shape, uint64_t n_token);

/* Called between windows; not FG_OK ends the calibration with that status. */
typedef fg_status fg_calib_poll(void *ctx, fg_err *err);

typedef struct fg_calib_opts {
    bool full;           /* all second moments and error feedback; false: those of each channel, and
                         * weighted scales only */
    const char *beside;  /* path for temporary files */
    fg_calib_poll *poll; /* may be NULL */
    void *ctx;
} fg_calib_opts;

/* ids[n] is copied; the rest after the last whole window is dropped (a text shorter than one is one
 * window).  file: view of the file being written, its directory planned; borrowed, as is team.
 * Errors: FG_EINVAL (an id, no tokens), FG_EIO, FG_ENOTSUP (OpenBLAS), FG_ENOMEM. */
fg_status fg_calib_create(fg_calib **out, const fg_model_file *file, fg_team *team,
                          const uint32_t *ids, size_t n, const fg_calib_opts *o, fg_err *err);
void fg_calib_destroy(fg_calib **c); /* accepts NULL */

/* Called before each matrix is encoded (up shares the gate's call), in file order, when all tensors
 * before it are in the file.  *has: the matrix has inputs to calibrate with, and *f describes them
 * until the next call.  Errors: FG_EDATA (activations that are not finite; names the tensor),
 * FG_ENOMEM, those of poll. */
fg_status fg_calib_inputs(fg_calib *c, const fg_tensor *t, bool *has, fg_feedback *f, fg_err *err);

/* Gate and up of an expert wait in memory until down is encoded: where they are, between the calls
 * for up and down.  panels: g0 u0 g1 u1 ... without gaps, as in the file; scales: f32[16 * n_panel]
 * each. */
void fg_calib_bind_pair(fg_calib *c, const fg_tensor *gate, const fg_tensor *up,
                        const uint8_t *panels, const float *gate_scale, const float *up_scale);

/* Called when the expert of `down` (or any other matrix, then without effect) is in the file. */
fg_status fg_calib_wrote(fg_calib *c, const fg_tensor *t, fg_err *err);

/* Instead of fg_calib_inputs and fg_calib_wrote for a tensor that an earlier life of the conversion
 * wrote: the state that they would have left, for the cost of a forward pass.  In file order. */
fg_status fg_calib_skip(fg_calib *c, const fg_tensor *t, fg_err *err);

/* Activations of a token between layers, as of the last one that was passed: f32[d_model];
 * borrowed. */
const float *fg_calib_activations(const fg_calib *c, uint64_t token);

fg_calib_report fg_calib_get_report(const fg_calib *c);

#endif
