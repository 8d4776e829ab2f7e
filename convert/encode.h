/* SPDX-License-Identifier: MIT
 *
 * Matrices of a checkpoint -> panels of the file, band by band: read some panels of rows, encode
 * them on the thread team, hand the bytes on in file order.  One or two matrices at a time; two
 * are the gate and up of an expert, whose panels alternate.
 *
 * A panel is encoded by one worker and is a function of its 16 rows only, and the error sums are
 * added in panel order by the caller's thread, so neither the number of threads nor the band size
 * shows in the result.  While a band is encoded, a thread of the encoder reads the next: the source
 * must not be used by others during fg_encode.  Memory: three bands (some 16 MB each, or four
 * panels a thread where rows are long, 256 MB at most) and one panel of f32 a thread.
 */
#ifndef FG_CONVERT_ENCODE_H
#define FG_CONVERT_ENCODE_H

#include <stddef.h>
#include <stdint.h>

#include "convert/source/catalog.h"
#include "convert/source/shards.h"
#include "quant/feedback.h"
#include "src/sys/team.h"

typedef struct fg_encoder fg_encoder;

/* in: tensor, piece, row_scale.  out: the rest. */
typedef struct fg_encode_job {
    const fg_tensor *tensor; /* a matrix */
    const fg_piece *piece;
    const fg_feedback *feedback; /* inputs of the matrix; NULL: not calibrated */
    float *row_scale;            /* [16 * n_panel]; filled for quantized types */
    uint64_t hash;               /* XXH3-64 of the source bytes */
    float err_rms;               /* sqrt(sum of squared errors / sum of squares); 0 for f32 */
    float err_max_row;           /* the same of the worst row */
    float err_out; /* the same of the outputs on the calibration text; 0: not calibrated */
    float peak;    /* largest |w| / rms of the matrix; 0 for a zero matrix */
} fg_encode_job;

typedef struct fg_encode_io {
    /* n bytes for the absolute file position pos; positions ascend. */
    fg_status (*put)(void *ctx, uint64_t pos, const void *bytes, uint64_t n, fg_err *err);
    void *put_ctx;
    /* n more source bytes are done; a failure ends the encoding. */
    fg_status (*tick)(void *ctx, uint64_t n, fg_err *err);
    void *tick_ctx;
} fg_encode_io;

/* max_cols: longest row.  team and source are borrowed. */
fg_status fg_encoder_create(fg_encoder **out, fg_team *team, fg_shards *source, uint64_t max_cols,
                            fg_err *err);
/* Memory that one takes. */
uint64_t fg_encoder_bytes(uint32_t n_thread, uint64_t max_cols);
/* Accepts NULL; *e becomes NULL. */
void fg_encoder_destroy(fg_encoder **e);

/* Encodes n_job (1 or 2) matrices with the same number of panels, panel by panel in turn.
 * FG_EDATA names tensor, row and column of a weight that is not finite, or that the stored type
 * cannot hold. */
fg_status fg_encode(fg_encoder *e, fg_encode_job *job, size_t n_job, const fg_encode_io *io,
                    fg_err *err);

/* Reads a vector and hands it on as f32: of *job, tensor and piece are used, hash and peak (its
 * largest magnitude) are filled.
 * Errors as of fg_encode. */
fg_status fg_encode_vector(fg_encoder *e, fg_encode_job *job, const fg_encode_io *io, fg_err *err);

/* n elements of `dtype` (not FG_ST_OTHER), little-endian, to f32; exact.  src needs no
 * alignment. */
void fg_encode_to_f32(fg_st_dtype dtype, const uint8_t *src, size_t n, float *dst);

#endif
