/* SPDX-License-Identifier: MIT
 *
 * Carrying a model, split or not, with its signature, from one machine to another by hand: in
 * pieces, on folders that are smaller than it (pack, unpack), or through a pipe that goes one way
 * (send, receive).
 *
 * The sender keeps M.carry beside the model M, the receiver OUT.carry beside what it makes: what is
 * where, replaced as a whole, so that either may be killed at any time and run again.  A stick has
 * carry.manifest, pieces, and once it was unpacked carry.received, the receiver's answer.  Each MiB
 * is compared with its SHA-256 on the stick and on the receiver's disk, both read past the page
 * cache.  That finds damage; whose the model is says its signature alone (src/format/signature.h).
 */
#ifndef FG_SRC_CARRY_CARRY_H
#define FG_SRC_CARRY_CARRY_H

#include <stdbool.h>
#include <stdint.h>

#include "src/base/status.h"

/* Of a piece, header included: below 2^32, the most that FAT has. */
#define FG_CARRY_PIECE        ((uint64_t)4095 << 20)
#define FG_CARRY_STREAM_PIECE ((uint64_t)16 << 20)

/* What a call is at: it looks at the pieces of a stick, copies bytes, reads bytes back. */
typedef enum fg_carry_phase { FG_CARRY_LOOK, FG_CARRY_COPY, FG_CARRY_CHECK } fg_carry_phase;

typedef struct fg_carry_opts {
    uint64_t piece_bytes; /* 0: the usual; 2 MiB to FG_CARRY_PIECE */
    bool move;  /* give up what has safely arrived: ranges of the model (pack) or pieces of
                             the stick (unpack) */
    bool again; /* pack: what was sent and not confirmed is sent once more */
    /* false: FG_ECANCEL; or NULL */
    bool (*progress)(void *ctx, fg_carry_phase phase, uint64_t done, uint64_t total);
    void *ctx;
    /* a line about something that was left alone or is damaged; or NULL */
    void (*note)(void *ctx, const char *line);
} fg_carry_opts;

/* How things stand after a call; bytes of what is carried. */
typedef struct fg_carry_report {
    uint64_t total;
    uint64_t left;    /* to be sent */
    uint64_t sent;    /* on the way, not confirmed */
    uint64_t arrived; /* with the receiver, as far as is known here */
    uint64_t now;     /* packed or taken over by this call */
    uint64_t bad;     /* damaged or unreadable: asked for again */
    uint64_t trip;    /* pack: number of this stick, 0: nothing was put there */
    uint64_t trips;   /* as many of its size will it take */
    bool complete;    /* unpack: the model is there */
    char out[256];    /* unpack: its name */
} fg_carry_report;

/* Takes the answer of the stick, replaces what arrived, and fills it with what is next. Errors:
 * FG_EIO (the stick has not what was written: what is good of it counts), FG_EFORMAT (of another
 * transfer), those of opening a model. */
fg_status fg_carry_pack(const char *model, const char *stick, const fg_carry_opts *o,
                        fg_carry_report *r, fg_err *err);

/* Takes over what the stick has and leaves the answer there.  out: the model's file or a folder for
 * it; NULL: the working folder.  Damage is no error but counted.  Errors: FG_EFORMAT (a foreign
 * manifest; a foreign piece, after all others), FG_EIO, FG_EINVAL (there already). */
fg_status fg_carry_unpack(const char *stick, const char *out, const fg_carry_opts *o,
                          fg_carry_report *r, fg_err *err);

/* The whole transfer to a descriptor that may be a pipe; nothing is remembered. */
fg_status fg_carry_send(const char *model, int fd, const fg_carry_opts *o, fg_carry_report *r,
                        fg_err *err);
/* The same from one: what is lost or damaged on the way is left out, and comes with the next time
 * that it is sent. */
fg_status fg_carry_receive(int fd, const char *out, const fg_carry_opts *o, fg_carry_report *r,
                           fg_err *err);

/* What is known at a model (M, or an OUT not yet complete) or on a stick, without changing it. */
fg_status fg_carry_status(const char *path, fg_carry_report *r, fg_err *err);

#endif
