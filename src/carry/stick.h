/* SPDX-License-Identifier: MIT
 *
 * A folder on something that is carried: what is there came from elsewhere.  Names are checked
 * before they are opened, one at a time below the folder's descriptor, links are not followed, and
 * nothing but regular files is opened.
 */
#ifndef FG_SRC_CARRY_STICK_H
#define FG_SRC_CARRY_STICK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/base/status.h"
#include "src/carry/carry_list.h"
#include "src/carry/piece.h"

#define FG_STICK_MANIFEST "carry.manifest"
#define FG_STICK_RECEIVED "carry.received"

typedef struct fg_stick {
    int dir;          /* -1: closed */
    const char *path; /* borrowed */
} fg_stick;

fg_status fg_stick_open(fg_stick *s, const char *path, fg_err *err);
void fg_stick_close(fg_stick *s);

/* PATH/NAME for messages; buf has FG_STICK_TEXT characters. */
enum { FG_STICK_TEXT = 512 };
const char *fg_stick_shown(const fg_stick *s, const char *name, char *buf);

/* A regular file for reading; *fd is -1 with FG_OK when there is none.  cold: past the page cache,
 * so that what is read is what the medium has. */
fg_status fg_stick_open_file(const fg_stick *s, const char *name, bool cold, int *fd, fg_err *err);
/* A new file for writing and reading, in place of what has the name. */
fg_status fg_stick_create(const fg_stick *s, const char *name, int *fd, fg_err *err);
fg_status fg_stick_remove(const fg_stick *s, const char *name, fg_err *err);
fg_status fg_stick_rename(const fg_stick *s, const char *from, const char *to, fg_err *err);

/* A list of this kind; *there: whether there was one.  *l must be zeroed. */
fg_status fg_stick_read_list(const fg_stick *s, const char *name, fg_carry_kind kind,
                             fg_carry_list *l, bool *there, fg_err *err);
fg_status fg_stick_put_list(const fg_stick *s, const char *name, fg_carry_kind kind,
                            const fg_carry_list *l, fg_err *err);

/* Names in the folder that may be opened and end in `ending`, sorted: *names is an array of *n
 * strings of 65 bytes, freed with fg_mem_free. */
fg_status fg_stick_names(const fg_stick *s, const char *ending, char (**names)[65], size_t *n,
                         fg_err *err);

/* Bytes that can still be written there. */
uint64_t fg_stick_room(const fg_stick *s);

/* Everything written to fd is on the medium, and no longer in the page cache. */
fg_status fg_stick_settle(int fd, const char *name, fg_err *err);

/* Memory for a block, aligned as direct reads want it. */
typedef struct fg_block_buffer {
    void *base;
    uint8_t *p;
} fg_block_buffer;
bool fg_block_buffer_make(fg_block_buffer *b); /* false when out of memory */
void fg_block_buffer_free(fg_block_buffer *b);

/* n bytes (<= FG_BLOCK_BYTES) at a multiple of 4096 into buf, which is aligned to 4096 and has room
 * for a block; false: not readable, or it ends. */
bool fg_stick_read_block(int fd, void *buf, size_t n, uint64_t offset);

/* The header of a piece; FG_EIO too. */
fg_status fg_piece_read(int fd, fg_carry_piece *p, const char *name, fg_err *err);

#endif
