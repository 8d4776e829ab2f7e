/* SPDX-License-Identifier: MIT
 *
 * The header of one safetensors file: 8-byte little-endian length, a JSON object that names each
 * tensor's dtype, shape and byte range, then the data.
 *
 * A header is untrusted: lengths are checked against the file and a 100 MB cap before any memory
 * is taken, a shape's product against its byte range, and the ranges must tile the data exactly.
 * The format forbids holes, so a hole or an overlap means a damaged or forged file.  Data is not
 * read here.  A dtype that we cannot convert is kept as FG_ST_OTHER: it is only an error when the
 * tensor turns out to be needed.
 */
#ifndef FG_CONVERT_SOURCE_SAFETENSORS_H
#define FG_CONVERT_SOURCE_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/io.h"
#include "src/base/status.h"

enum {
    FG_ST_MAX_DIM = 8,
};
#define FG_ST_MAX_HEADER ((uint64_t)100000000) /* the cap of the format's own reader */

typedef enum fg_st_dtype { FG_ST_F32, FG_ST_BF16, FG_ST_F16, FG_ST_OTHER } fg_st_dtype;

typedef struct fg_st_tensor {
    char *name;          /* owned by the shard */
    uint8_t dtype;       /* fg_st_dtype */
    char dtype_text[15]; /* as written, cut, for messages */
    uint32_t n_dim;
    uint64_t dim[FG_ST_MAX_DIM];
    uint64_t offset; /* absolute, bytes */
    uint64_t bytes;
} fg_st_tensor;

/* One file.  Zero-initialise; free with fg_st_fini. */
typedef struct fg_st_shard {
    char *path;
    uint64_t file_bytes;
    fg_stamp stamp; /* of the file when its header was read; zero: it was not, or none was had */
    uint64_t header_bytes; /* with the 8 bytes of the length: offset of the data */
    uint8_t *header;       /* [header_bytes], as in the file, and a NUL */
    size_t n_tensor;
    fg_st_tensor *tensor; /* sorted by offset */
} fg_st_shard;

/* Reads and checks the header of `path`; the file is closed again.  On failure *s is empty.
 * Errors: FG_EIO, FG_EFORMAT, FG_ELIMIT, FG_ENOMEM; the message names path and tensor. */
fg_status fg_st_open(fg_st_shard *s, const char *path, fg_err *err);

/* The same for a file that may still be growing: after an error, *growing says whether more bytes
 * could mend it (it is shorter than it says, or begins with zeros, as space that was only set aside
 * does). */
fg_status fg_st_open_growing(fg_st_shard *s, const char *path, bool *growing, fg_err *err);

/* The shard that a file of file_bytes with this header is; header[n] is copied, no file is
 * opened. */
fg_status fg_st_from_header(fg_st_shard *s, const char *path, uint64_t file_bytes,
                            const uint8_t *header, uint64_t n, fg_err *err);

/* Accepts any half-built object; leaves it empty. */
void fg_st_fini(fg_st_shard *s);

/* Bytes of one element: 4 or 2; 0 for FG_ST_OTHER. */
static inline uint32_t fg_st_dtype_bytes(fg_st_dtype dtype)
{
    return dtype == FG_ST_F32 ? 4 : dtype == FG_ST_OTHER ? 0 : 2;
}

#endif
