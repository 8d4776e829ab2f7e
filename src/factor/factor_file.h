/* SPDX-License-Identifier: MIT
 *
 * A model with its ids as a file.  Little-endian:   "FGFACTOR", u32 version 1, u32 algorithm, u32
 * rank, u32 biases, u32 rows, u32 columns, u64 bytes
 *   of the rows' ids, u64 of the columns', f64 mean, low, high; ids, each ended by a NUL; bytes
 *   "met" of rows and of columns; f32 x [rows][rank], y [columns][rank], and with biases those of
 *   rows and columns; u64 XXH3-64 of all before.
 */
#ifndef FG_SRC_FACTOR_FACTOR_FILE_H
#define FG_SRC_FACTOR_FACTOR_FILE_H

#include "src/factor/factor_model.h"
#include "src/factor/ratings.h"

/* Through a temporary file and a rename.  FG_EIO, FG_ENOMEM. */
fg_status fg_factor_save(const char *path, const fg_factor_model *m, const fg_id_table *row,
                         const fg_id_table *col, fg_err *err);

/* FG_EFORMAT: another file, damaged; FG_EVERSION; FG_EIO, FG_ENOMEM. */
fg_status fg_factor_load(const char *path, fg_factor_model **m, fg_id_table *row, fg_id_table *col,
                         fg_err *err);
fg_status fg_factor_read(const void *bytes, size_t n, const char *name, fg_factor_model **m,
                         fg_id_table *row, fg_id_table *col, fg_err *err);

#endif
