/* SPDX-License-Identifier: MIT
 *
 * Where the compiled kernels are: in the program, or in a file fulgur-cuda.fatbin beside it, in
 * ../lib/fulgur from there, or in the folder of an installation.
 */
#ifndef FG_SRC_DEVICE_MODULE_H
#define FG_SRC_DEVICE_MODULE_H

#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"

/* What the driver loads. */
typedef struct fg_module_image {
    const void *fatbin; /* borrowed */
    int driver;         /* version that it needs at least */
    char *owned;        /* the file that was read; NULL: built in */
} fg_module_image;

/* FG_ENOTSUP: none is there; FG_EFORMAT, FG_EVERSION: a file that is not ours, or of another build;
 * FG_EIO, FG_ENOMEM.  Freed with fg_module_close. */
fg_status fg_module_open(fg_module_image *out, fg_err *err);
void fg_module_close(fg_module_image *m);

#endif
