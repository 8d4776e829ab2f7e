/* SPDX-License-Identifier: MIT
 *
 * What a file is that is not what its name says: a download that went wrong leaves a file of the
 * right name, and "not JSON at byte 0" does not tell anybody to run git lfs pull.
 */
#ifndef FG_SRC_BASE_MISTAKEN_H
#define FG_SRC_BASE_MISTAKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* What the first n bytes of a file say that it is, with what to do: a Git LFS pointer, a web page,
 * gzip data and the like; NULL when it is none of those. */
const char *fg_mistaken_kind(const uint8_t *first, size_t n);

/* After `path` could not be read as `wanted` ("a tokenizer"), with the status st: where the file is
 * one of those, or empty, or zeros, *err says so instead; *known: it is one of those, and no
 * download will go on with it.  known is NULL when no shard was wanted: one of those is named as
 * well.  Returns st, or FG_EFORMAT.  FG_OK and FG_ENOMEM stay what they are. */
fg_status fg_mistaken_explain(fg_status st, const char *path, const char *wanted, bool *known,
                              fg_err *err);

/* FG_EFORMAT when the n bytes of `path` are one of those or a shard, for what is not parsed. */
fg_status fg_mistaken_refuse(const void *bytes, size_t n, const char *path, const char *wanted,
                             fg_err *err);

#endif
