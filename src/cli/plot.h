/* SPDX-License-Identifier: MIT
 *
 * Quantization error by layer and role as a drawing: what info --tensors says in numbers.
 */
#ifndef FG_SRC_CLI_PLOT_H
#define FG_SRC_CLI_PLOT_H

#include "src/engine/engine.h"

/* Writes an SVG 1.1 file (no scripts; follows the viewer's light or dark scheme) through a
 * temporary file and a rename.  FG_EINVAL when the path names the model itself or something that is
 * no plain file, or when the model holds no error to draw. */
fg_status plot_errors(const fg_model_file *f, const char *path, fg_err *err);

#endif
