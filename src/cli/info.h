/* SPDX-License-Identifier: MIT
 *
 * The longer tables of fulgur info: tensors and quality cards; the drawing is in plot.h.
 */
#ifndef FG_SRC_CLI_INFO_H
#define FG_SRC_CLI_INFO_H

#include <stdbool.h>

#include "src/engine/engine.h"

/* Short name of a tensor's role, e.g. "expert gate"; never NULL. */
const char *info_role_name(uint32_t role);

/* All tensors and the sums of each role, as a table or as JSON on stdout. */
fg_status info_print_tensors(const fg_model_file *f, bool json, fg_err *err);

/* The sums of each role alone, as a table on stdout. */
void info_print_roles(const fg_model_file *f);

/* The file's quality cards, as a table or as JSON on stdout.  A card of other weights is shown and
 * marked. */
fg_status info_print_quality(const fg_model_file *f, bool json, fg_err *err);

/* Which node has which weights with these options, and where their cached pages are, as a table or
 * as JSON on stdout. */
fg_status info_print_placement(const char *path, const fg_engine_opts *o, bool json, fg_err *err);

#endif
