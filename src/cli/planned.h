/* SPDX-License-Identifier: MIT
 *
 * A model that is looked at but not run: a file, or what a conversion would make of a checkpoint
 * folder or a configuration alone.
 */
#ifndef FG_SRC_CLI_PLANNED_H
#define FG_SRC_CLI_PLANNED_H

#include "src/plan/forecast.h"

typedef struct planned {
    const fg_file_plan *plan; /* of either of the next two */
    fg_model_file *file;
    fg_file_plan *own;
    bool exact;    /* file size */
    char type[32]; /* of a conversion; empty for a file */
} planned;

/* type and recipe as in fg_convert_opts; FG_EINVAL when a model file, which has its own, is given
 * some.  Errors besides: those of opening a file and of fg_dry_run_plan. */
fg_status planned_open(planned *p, const char *source, const char *type, const char *recipe,
                       fg_err *err);
void planned_close(planned *p); /* accepts a zeroed one */

/* The beginning of the file at path is that of a model file. */
bool planned_is_model(const char *path);

#endif
