/* SPDX-License-Identifier: MIT
 *
 * config.json of a checkpoint -> fg_shape, for the two published dialects of one architecture:
 * MiniMax's own (MiniMaxM1ForCausalLM, MiniMaxText01ForCausalLM) and that of transformers
 * (MiniMaxForCausalLM).  The same number has two names there; either name is taken in either
 * dialect, and when both are present they must agree.
 *
 * Strict on purpose: a class default is never guessed (the defaults of the published classes are
 * not the released model), and every key that would change the computation in a way we do not
 * implement is refused by name.  Keys without influence on inference are ignored.
 */
#ifndef FG_CONVERT_SOURCE_HF_CONFIG_H
#define FG_CONVERT_SOURCE_HF_CONFIG_H

#include <stddef.h>

#include "src/base/status.h"
#include "src/format/shape.h"

/* text: n bytes of JSON; `name` is the object of messages ("DIR/config.json").  On failure *out is
 * unspecified.  Errors: FG_EFORMAT (JSON, missing key, wrong type), FG_ENOTSUP (another
 * architecture or an unsupported setting), FG_ESHAPE (a value out of range), FG_ENOMEM. */
fg_status fg_hf_config_parse(fg_shape *out, const char *text, size_t n, const char *name,
                             fg_err *err);

/* The same from the file at path, up to 1 MiB; a file that is something else (a page, a model) is
 * called what it is.  text (may be NULL): its n bytes, the caller's to free.  Errors also:
 * FG_EIO. */
fg_status fg_hf_config_load(fg_shape *out, const char *path, char **text, size_t *n, fg_err *err);

#endif
