/* SPDX-License-Identifier: MIT
 *
 * What a conversion would write, before it runs and where only the small files of a checkpoint are
 * there: the writer's plan with every size and place, from config.json and a recipe.  No shard is
 * opened; of those that are there the length of their sizes' digits counts (provenance), nothing else.
 *
 * The data region depends on configuration and recipe alone.  The file adds header, directory and the
 * metadata that fg_convert would store, and is then exact to the byte.
 */
#ifndef FG_CONVERT_OUTLINE_H
#define FG_CONVERT_OUTLINE_H

#include <stdbool.h>

#include "src/base/status.h"
#include "src/format/write/writer.h"

typedef struct fg_outline {
    fg_shape shape;
    fg_writer *writer; /* planned, never begun: holds no file */
    bool exact;        /* the file's size; false: no folder, or shards that are not there yet */
    char type[32];     /* type, or name of the recipe, as provenance has it */
} fg_outline;

/* source: a checkpoint folder, or a config.json alone, which is then the only metadata besides the
 * recipe and provenance.  type and recipe as in fg_convert_opts.  On failure *o is empty.  Errors:
 * FG_EIO, FG_EFORMAT, FG_EINVAL, FG_ENOTSUP, FG_ESHAPE, FG_ELIMIT, FG_ENOMEM. */
fg_status fg_outline_make(fg_outline *o, const char *source, const char *type, const char *recipe,
                          fg_err *err);
void fg_outline_fini(fg_outline *o); /* accepts a zeroed one */

#endif
