/* SPDX-License-Identifier: MIT
 *
 * The files of a model at either end, as the blocks that are carried.  Private to this folder.
 */
#ifndef FG_SRC_CARRY_CARRY_FILES_H
#define FG_SRC_CARRY_CARRY_FILES_H

#include "src/carry/carry.h"
#include "src/carry/carry_list.h"
#include "src/carry/stick.h"

/* A model's name and what stands beside it. */
typedef struct fg_carry_files {
    char *path, *folder; /* owned; of the model; its folder */
    const char *base;    /* its last part */
    char state[80];      /* name of the state beside it */
    int fd[FG_CARRY_MAX_FILE];
    int cold[FG_CARRY_MAX_FILE];   /* the same past the page cache; -1: not to be had */
    char *name[FG_CARRY_MAX_FILE]; /* paths, of the list's files */
    size_t n;
} fg_carry_files;

/* Splits the path; nothing is opened.  FG_EINVAL: a name of more than 64 bytes, for which there is
 * no state. */
fg_status fg_carry_files_init(fg_carry_files *f, const char *path, fg_err *err);
void fg_carry_files_close(fg_carry_files *f); /* accepts a zeroed object */

/* The sender's: makes the list of what the model has, and its identity. */
fg_status fg_carry_files_scan(const fg_carry_files *f, fg_carry_list *l, fg_err *err);
/* Opens them, which must be those of the list, and locks the first against a second sender. */
fg_status fg_carry_files_open(fg_carry_files *f, const fg_carry_list *l, bool writable,
                              fg_err *err);

/* A block of a file, from its disk or to it.  buf: aligned to 4096, with room for a block. */
fg_status fg_carry_read_block(const fg_carry_files *f, const fg_carry_list *l, uint64_t block,
                              uint8_t *buf, fg_err *err);
fg_status fg_carry_write_block(const fg_carry_files *f, const fg_carry_list *l, uint64_t block,
                               const uint8_t *buf, fg_err *err);

/* The disk begins with it at once, not when memory is full of what it is to get. */
void fg_carry_start_block(const fg_carry_files *f, const fg_carry_list *l, uint64_t block);

/* Whether ranges of the model can be freed where they are; else from the end only. */
bool fg_carry_can_punch(const fg_carry_files *f);
/* Frees what blocks FG_BLOCK_HAVE took. */
fg_status fg_carry_free_blocks(const fg_carry_files *f, const fg_carry_list *l, fg_err *err);

/* The unfinished model at the receiver: opens what is being made, creating it where `fresh`. */
fg_status fg_carry_out_open(fg_carry_files *f, const fg_carry_list *l, bool fresh, fg_err *err);
/* All blocks are there: files get their names, the model last, and the state goes. */
fg_status fg_carry_out_finish(fg_carry_files *f, const fg_carry_list *l, fg_err *err);

#endif
