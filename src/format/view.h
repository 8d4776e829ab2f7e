/* SPDX-License-Identifier: MIT
 *
 * The reader's side of fg_writer_view: a model file that is still being written, seen through the
 * accessors of reader.h.  Private to this folder.
 */
#ifndef FG_SRC_FORMAT_VIEW_H
#define FG_SRC_FORMAT_VIEW_H

#include "src/format/parts.h"
#include "src/format/reader.h"

/* Maps the plan's file_bytes of the parts, which must be as long as a finished file's already.  The
 * main descriptor is duplicated, the others are borrowed for the call; the plan's arrays are
 * borrowed, so that what the writer changes in them is seen.  Nothing is checked, and there is no
 * metadata: the writer stores it at the end.  Errors: FG_EIO, FG_ENOMEM, FG_ENOTSUP
 * (fg_parts_map). */
fg_status fg_model_file_view(fg_model_file **out, const fg_parts *parts, const fg_file_plan *plan,
                             fg_err *err);

#endif
