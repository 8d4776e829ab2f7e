/* SPDX-License-Identifier: MIT
 *
 * The SHA-256 text (src/format/seal.h) of a file that is finished: for one of an older writer, and
 * after metadata that is under it has changed.
 */
#ifndef FG_SRC_FORMAT_WRITE_RESEAL_H
#define FG_SRC_FORMAT_WRITE_RESEAL_H

#include "src/base/status.h"
#include "src/format/seal.h"

/* Reads all weights of f, which must be what their XXH3 say, and appends the text to the file at
 * f's path, which must still be that file. Errors: those of fg_seal_make, fg_append_open and
 * fg_append_meta; FG_EIO (changed in between). */
fg_status fg_reseal(const fg_model_file *f, const fg_seal_pass *pass, fg_err *err);

/* A text with the metadata as it is now and the chunks as the old text has them, where the file has
 * one: weights do not change in a finished file.  Errors: FG_EFORMAT (no text of ours), those of
 * fg_append_open and fg_append_meta. */
fg_status fg_reseal_metadata(const char *path, fg_err *err);

#endif
