/* SPDX-License-Identifier: MIT
 *
 * What of a model file a signature is for: one text with its shape, its tensors, the SHA-256 of
 * each metadata key and of each chunk of the weights (FORMAT.md 4.5), kept as the metadata key
 * "sha256".  XXH3, which everything else in the file is under, can be made right by who forges; the
 * text says what was there when it was made, and a signature of the text (signature.h) by whom.
 *
 * A reader never believes the text: it makes its own of what it has opened, and the two must be the
 * same bytes.  Chunks are compared when they are read.
 */
#ifndef FG_SRC_FORMAT_SEAL_H
#define FG_SRC_FORMAT_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/base/status.h"
#include "src/format/reader.h"

#define FG_SEAL_KEY "sha256"

/* Keys that the text leaves out: itself, and what is measured of a finished model.  They may be
 * anybody's. */
bool fg_seal_leaves_out(const char *key);

typedef bool fg_seal_progress(void *ctx, uint64_t done, uint64_t total);

/* How a whole file is read: on so many threads at once (0: as many as
 * there are processors for this one), told how far it is. */
typedef struct fg_seal_pass {
    uint32_t n_thread;
    const uint8_t *only;        /* [chunks] 1: this one; NULL: all */
    fg_seal_progress *progress; /* NULL: not told; false cancels (FG_ECANCEL) */
    void *ctx;
} fg_seal_pass;

/* A file's own text, found to agree with shape, tensors, parts and metadata of the file. */
typedef struct fg_seal fg_seal;

/* Reads all metadata that is under it.  *out is closed by fg_seal_close, before f; NULL with FG_OK:
 * the file has no such key.  FG_ECHECKSUM names the first that differs, FG_EFORMAT: no such text;
 * FG_EIO, FG_ENOMEM. */
fg_status fg_seal_open(fg_seal **out, const fg_model_file *f, fg_err *err);
void fg_seal_close(fg_seal **s); /* accepts NULL */

/* The bytes that a signature is for; borrowed until the file is closed. */
const char *fg_seal_text(const fg_seal *s, size_t *n);
/* Generation of the file that it was made with. */
uint64_t fg_seal_generation(const fg_seal *s);

/* Reads the weights and compares each chunk with both its hashes.  FG_ECHECKSUM names a tensor. */
fg_status fg_seal_check_data(const fg_seal *s, const fg_seal_pass *pass, fg_err *err);
/* Compares bytes[n], all of a chunk, with its SHA-256.  FG_ECHECKSUM, FG_ENOMEM. */
fg_status fg_seal_check_chunk(const fg_seal *s, uint64_t chunk, const uint8_t *bytes, size_t n,
                              fg_err *err);

/* The text of an open file, as of `generation`; reads all weights, which must agree with their
 * XXH3.  b is empty. */
fg_status fg_seal_make(fg_buf *b, const fg_model_file *f, uint64_t generation,
                       const fg_seal_pass *pass, fg_err *err);

#endif
