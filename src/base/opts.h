/* SPDX-License-Identifier: MIT
 *
 * Structs of options that begin with their size: what a caller with an older header does not know
 * has its default, what this library does not know must be zero.
 */
#ifndef FG_SRC_BASE_OPTS_H
#define FG_SRC_BASE_OPTS_H

#include <stddef.h>

#include "src/base/status.h"

/* The caller's struct of `size` bytes: defaults[known], as far as it goes, then zeros. */
void fg_opts_init(void *o, size_t size, const void *defaults, size_t known);

/* to[known], which holds defaults, takes what the caller's struct says.  FG_EINVAL: a size too
 * small to hold itself, or something set that this library does not know.  `what` is for the
 * message. */
fg_status fg_opts_take(void *to, size_t known, const void *from, const char *what, fg_err *err);

#endif
