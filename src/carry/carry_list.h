/* SPDX-License-Identifier: MIT
 *
 * What is carried, and what of it is where: the lists that a transfer is made of.  All four are
 * texts of one form, which ends with the SHA-256 of what stands before:
 *
 *   fulgur carry 2 KIND         manifest (on every stick), received (the receiver's answer, on the
 *                               stick), sender, receiver (beside the model)
 *   transfer ID                 32 hexadecimal digits: what is carried, see fg_carry_list_seal
 *   sender ID                   random, of the sender's state; of "received": whom it answers.  Not
 *                               in "receiver"
 *   receiver ID                 random, of the receiver's state; of "sender": whose answers count,
 *                               once there was one.  Not in the manifest
 *   name NAME                   of the model; not in "received"
 *   file ENDING BYTES           0: the model itself, 1 to 15: part k of a split one, 16: its .sig
 *   extent OFFSET BYTES         what a file has that is no hole, ascending
 *   stamp SECONDS NANOSECONDS   when the sender's file was last written to
 *   blocks N
 *   sent|have|bad FIRST END     states of blocks FIRST to END - 1, ascending
 *   trips N, moves N            the sender's
 *   end SHA256
 *
 * A block is 1 MiB of the bytes that a file has, holes left out, the last one of a file shorter;
 * blocks of all files are counted together.
 *
 * A list may come from anybody: whatever the text, parsing it allocates 16 MiB for blocks and its
 * own length for extents at most, and what was parsed is within its own bounds.
 */
#ifndef FG_SRC_CARRY_CARRY_LIST_H
#define FG_SRC_CARRY_CARRY_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/buf.h"
#include "src/base/status.h"

#define FG_BLOCK_BYTES ((uint64_t)1 << 20)

enum {
    FG_CARRY_ID_BYTES = 16,
    FG_CARRY_ID_CHARS = 33,
    FG_CARRY_MAX_FILE = 17, /* model, 15 parts, signature */
    FG_CARRY_SIG = 16,      /* ending of the signature */
    FG_CARRY_MAX_NAME = 56, /* of a model; endings make it 64 at most */
    FG_CARRY_MAX_BLOCK = 1 << 24,
    FG_CARRY_MAX_EXTENT = 1 << 20,
    FG_CARRY_MAX_TEXT = 64 << 20,
};

typedef enum fg_carry_kind {
    FG_CARRY_MANIFEST,
    FG_CARRY_RECEIVED,
    FG_CARRY_SENDER,
    FG_CARRY_RECEIVER
} fg_carry_kind;

typedef enum fg_block_state {
    FG_BLOCK_NEW,  /* to be sent */
    FG_BLOCK_SENT, /* on a stick, read back there */
    FG_BLOCK_HAVE, /* on the receiver's disk, read back there */
    FG_BLOCK_BAD   /* seen by the receiver, and damaged */
} fg_block_state;

typedef struct fg_carry_extent {
    uint64_t offset, bytes;
    uint64_t at; /* bytes that the file has before it */
} fg_carry_extent;

typedef struct fg_carry_file {
    uint32_t ending;
    uint64_t bytes; /* length */
    uint64_t data;  /* what is no hole */
    size_t extent, n_extent;
    uint64_t first, n_block;
    int64_t stamp_s, stamp_ns; /* of a sender */
} fg_carry_file;

typedef struct fg_carry_list {
    uint8_t id[FG_CARRY_ID_BYTES];
    uint8_t sender[FG_CARRY_ID_BYTES], receiver[FG_CARRY_ID_BYTES]; /* zeros: nobody */
    char name[FG_CARRY_MAX_NAME + 1];
    fg_carry_file file[FG_CARRY_MAX_FILE];
    size_t n_file;
    fg_carry_extent *extent; /* [n_extent] */
    size_t n_extent, cap_extent;
    uint64_t n_block;
    uint8_t *block; /* [n_block] fg_block_state */
    uint64_t trips; /* sticks that were filled */
    bool moves;     /* the sender has begun to free what arrived */
} fg_carry_list;

/* A name that may be given to a file: [A-Za-z0-9._-]{1,64}, not beginning with a dot. */
bool fg_carry_name_is_valid(const char *name);

/* A zeroed list; files in ascending order of their endings, extents of the last file. FG_ELIMIT,
 * FG_ENOMEM. */
fg_status fg_carry_list_add_file(fg_carry_list *l, uint32_t ending, uint64_t bytes, fg_err *err);
fg_status fg_carry_list_add_extent(fg_carry_list *l, uint64_t offset, uint64_t bytes, fg_err *err);
/* Counts blocks, all new, and names the transfer by what is carried: sizes, extents, and `salt`,
 * the hash of what tells one model of these sizes from another.  FG_ELIMIT, FG_ENOMEM. */
fg_status fg_carry_list_seal(fg_carry_list *l, const uint8_t *salt, size_t n, fg_err *err);
void fg_carry_list_fini(fg_carry_list *l);

/* Appends the text.  False when out of memory. */
bool fg_carry_list_print(const fg_carry_list *l, fg_carry_kind kind, fg_buf *b);
/* *l must be zeroed; on failure it is left so.  name: for messages.  FG_EFORMAT, FG_ECHECKSUM,
 * FG_EVERSION, FG_ELIMIT, FG_ENOMEM. */
fg_status fg_carry_list_parse(fg_carry_list *l, fg_carry_kind kind, const char *text, size_t n,
                              const char *name, fg_err *err);

/* FG_EFORMAT when the list is about another transfer than `mine`, which `whose` names. */
fg_status fg_carry_list_same(const fg_carry_list *l, const char *name, const fg_carry_list *mine,
                             const char *whose, fg_err *err);

/* The file of a block, and how many bytes it has. */
const fg_carry_file *fg_carry_list_file_of(const fg_carry_list *l, uint64_t block);
uint64_t fg_carry_list_bytes_of(const fg_carry_list *l, uint64_t block);
/* Where byte `at` of a file's data is in the file, and how many follow there. */
uint64_t fg_carry_list_place(const fg_carry_list *l, const fg_carry_file *f, uint64_t at,
                             uint64_t *run);
/* Bytes of blocks in this state. */
uint64_t fg_carry_list_sum(const fg_carry_list *l, fg_block_state state);

#endif
