/* SPDX-License-Identifier: MIT
 *
 * Adds or replaces metadata in a finished .fulgur file without touching its weights (FORMAT.md 3,
 * Append): what is measured later, such as the quality card.  The file stays in use: readers that
 * have it open keep what they opened, readers that come later see the new generation.
 *
 * Safe at every point: whenever the machine stops, the file opens with the old generation or with
 * the new one.  Each append costs a complete directory (0.8 MB for the 456 B release) and the blob;
 * what it replaces stays in the file as dead bytes.
 */
#ifndef FG_SRC_FORMAT_WRITE_APPEND_H
#define FG_SRC_FORMAT_WRITE_APPEND_H

#include <stdint.h>

#include "src/base/status.h"
#include "src/format/reader.h"

typedef struct fg_append fg_append;

/* Opens a file for one append and locks it (flock) against a second writer; waits up to two seconds
 * for another append, which takes milliseconds.  Refuses a file whose header, directory, chunk
 * table or metadata is damaged; tensor data is not read.  *out is closed by fg_append_close.
 * Errors: FG_EIO (not writable, locked), and those of fg_model_file_open. */
fg_status fg_append_open(fg_append **out, const char *path, fg_err *err);

/* The generation before the append; borrowed until close.  Read here what the new entry is to be
 * made of: the lock keeps it from changing in between. */
const fg_model_file *fg_append_file(const fg_append *a);

/* Writes the entry (n bytes, may be 0) as the next generation; at most once for each open.  A key
 * is 1-255 bytes of printable ASCII.  Errors: FG_EINVAL (key, second call), FG_ELIMIT (1024
 * entries, sizes), FG_EIO (disk full or failing).  Before the new header is written a failure
 * leaves the file as long as it was. */
fg_status fg_append_meta(fg_append *a, const char *key, const void *bytes, uint64_t n, fg_err *err);

/* Gives up the lock.  Accepts NULL; *a becomes NULL. */
void fg_append_close(fg_append **a);

/* The three steps in one. */
fg_status fg_model_file_append_meta(const char *path, const char *key, const void *bytes,
                                    uint64_t n, fg_err *err);

#endif
