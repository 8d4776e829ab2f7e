/* SPDX-License-Identifier: MIT
 *
 * The log of a saved session (saved.h): what was said and evaluated, and what of it the other files
 * hold.  Private to this folder.
 *
 * Records, appended only, little-endian:
 *
 *   record   u32 magic, u32 type, u64 length, u64 seq, payload[length],
 *            u64 XXH3-64 of (hash before, XXH3-64 of the bytes up to here)
 *
 * seq counts from 0; the hash before the first is 0.  Records come in groups, each written at once,
 * synced, and ended by a record SYNC, whose payload is zeros up to the next multiple of 4096: a
 * write that is torn touches nothing that was synced before.  A group that is not whole was not
 * written.  Records of a payload `pos, ...` were written when the session was at that position:
 *
 *   OPEN      u32 version, u32 kv_type, u32 kv_numerics, u32 0, u64 data_root, u64 hash of
 *             tokenizer.json, u64 n_ctx, u64 id, u64 row_bytes, u64 image_bytes, name[]
 *             who computes from here on: what MARK and BLOCKS said before is void.  id: random;
 *             row_bytes, image_bytes: of a token of the cache, of an image without tail
 *   SETTINGS, MESSAGE, FORCED, END, TITLE   u64 pos, payload[] (fg_saved_kind); FORCED: u32
 *             fg_forced, u32 how many
 *   IDS       u64 pos of the first, u32 id[]
 *   STATE     u64 pos, the generator's state[]: random numbers and what else it needs to go on
 *   UNDO      u64 pos: ids from there on are gone, with all that is behind it
 *   BLOCKS    u64 first, u64 XXH3-64 of each block of kv[]
 *   MARK      u64 pos, number, root, bytes: a snapshot of that position is the file s.NUMBER, whose
 *             header has the hash root; the blocks before it are in kv
 *   DROP      u64 number: that snapshot is no more
 */
#ifndef FG_SRC_ENGINE_SESSION_LOG_H
#define FG_SRC_ENGINE_SESSION_LOG_H

#include "src/base/buf.h"
#include "src/engine/saved.h"

typedef enum fg_record {
    FG_RECORD_OPEN = 1,
    FG_RECORD_SETTINGS = 2,
    FG_RECORD_MESSAGE = 3,
    FG_RECORD_IDS = 4,
    FG_RECORD_FORCED = 5,
    FG_RECORD_STATE = 6,
    FG_RECORD_END = 7,
    FG_RECORD_MARK = 8,
    FG_RECORD_UNDO = 9,
    FG_RECORD_TITLE = 10,
    FG_RECORD_BLOCKS = 11,
    FG_RECORD_DROP = 12,
    FG_RECORD_SYNC = 13,
    FG_RECORD_COUNT
} fg_record;

enum { FG_LOG_VERSION = 1, FG_LOG_PAGE = 4096 };

typedef struct fg_log_mark {
    uint64_t pos, number, root, bytes;
} fg_log_mark;

/* Who computes. */
typedef struct fg_log_open {
    fg_saved_model model;
    uint64_t n_ctx, id, row_bytes, image_bytes;
} fg_log_open;

/* What a log says, all undone things left out.  Zero-initialise; free with fg_history_fini. */
typedef struct fg_history {
    uint8_t *bytes; /* of the file; payloads point into them */
    bool is_begun;  /* there is a whole first group */
    fg_log_open open;
    uint32_t *id;
    size_t n_id, cap_id;
    fg_saved_event *event;
    size_t n_event, cap_event;
    fg_log_mark *mark; /* positions ascending */
    size_t n_mark, cap_mark;
    uint64_t *block; /* hashes of the first n_block of them */
    size_t n_block, cap_block;
    uint64_t next_number; /* above those of all snapshots there ever were */
    const uint8_t *state; /* [n_state] the last STATE that is still true; NULL: none */
    size_t n_state;
    uint64_t state_pos;
    /* Of the whole groups: where they end, the number of records, the last one's hash. */
    uint64_t end, n_record, hash;
    uint64_t n_after; /* bytes of the file behind them */
    bool goes_on;     /* those have later groups in them: it is damage, no torn end */
} fg_history;

/* Reads a log of n bytes; bytes (fg_mem_alloc) is the history's from now on, also after a failure.
 * name is for messages.  Errors: FG_EFORMAT (no log, or records that contradict each other),
 * FG_ECHECKSUM (the first group is damaged), FG_EVERSION, FG_ENOMEM. */
fg_status fg_history_parse(fg_history *h, uint8_t *bytes, size_t n, const char *name, fg_err *err);
/* The same of a file; nothing there: nothing is begun.  *fd (may be NULL): open for writing. */
fg_status fg_history_read(fg_history *h, const char *path, int fd, fg_err *err);
void fg_history_fini(fg_history *h);

/* The last event of a kind, or NULL. */
const fg_saved_event *fg_history_last(const fg_history *h, fg_saved_kind kind);
fg_record fg_record_of(fg_saved_kind kind);

/* ---- writing ---- */

/* Zero-initialise; free with fg_log_fini, which closes fd. */
typedef struct fg_log {
    int fd;
    char *path;
    uint64_t end, n_record, hash; /* of what is on the disk, and behind it of group */
    fg_buf group;                 /* records that are not */
    bool is_torn;                 /* a write failed: there may be bytes behind `end` */
} fg_log;

/* Goes on behind a history, which may be zeroed; owns fd. */
fg_status fg_log_start(fg_log *g, int fd, const char *path, const fg_history *h, fg_err *err);
/* Adds a record, of a[na] and b[nb].  False: no memory, and the group is as it was: what the record
 * would have said has not happened. */
bool fg_log_put(fg_log *g, fg_record type, const void *a, size_t na, const void *b, size_t nb);
bool fg_log_put_u64(fg_log *g, fg_record type, const uint64_t *v, size_t n);
bool fg_log_put_open(fg_log *g, const fg_log_open *o);
/* A record that begins with a number: u64 pos, payload[n]. */
bool fg_log_put_at(fg_log *g, fg_record type, uint64_t pos, const void *payload, size_t n);
/* IDS of positions from to to - 1; none: no record. */
bool fg_log_put_ids(fg_log *g, const uint32_t *ids, uint64_t from, uint64_t to);
/* Writes the group and syncs; at once FG_OK when it is empty.  After a failure (FG_EIO, FG_ENOMEM)
 * it may be tried again: the group stays. */
fg_status fg_log_commit(fg_log *g, fg_err *err);
void fg_log_fini(fg_log *g);

#endif
