/* SPDX-License-Identifier: MIT
 *
 * Sessions on disk.  Experimental: no part of src/fulgur.h yet.
 *
 * A saved session is a folder NAME.fgs that belongs to one fg_session while it is open:
 *
 *     log     what was said and evaluated: records, appended only (session_log.h)
 *     kv      the key-value cache, blocks of 64 positions at fixed offsets
 *     s.N     snapshots: the lightning state at one position (session_parts.h)
 *
 * Ids alone are enough to make a session again; the other two save the time.  A state is a function
 * of model, ids and cache type, so nobody has to tell what was undone: whatever the session holds
 * when the log is written next is compared with what the log has, and the difference goes there.
 *
 * What is written survives the loss of power at any moment: the log is synced in groups of records,
 * of which opening takes the whole ones; a snapshot counts once the log says so, after it and the
 * blocks that it needs are on the disk.
 *
 *     fg_saved *k;
 *     fg_saved_open(&k, s, dir, "plan", &opts, &err);      new, or s is as it was left
 *     fg_saved_message(k, FG_MESSAGE_USER, ...);           before it is evaluated
 *     fg_saved_eval(k, ids, n, &err);                      a prompt, saved now and then
 *     for each token of the reply:
 *         if (fg_saved_due(k)) fg_saved_keep(k, state, n, &err);
 *     fg_saved_note(k, FG_SAVED_END, "stop", 4, &err);
 *     fg_saved_save(k, NULL, 0, &err);                     at the end of a turn
 *     fg_saved_close(&k);
 *
 * A failed write leaves session and fg_saved usable: what was to be written is tried again by the
 * next call.  Errors of all functions unless said otherwise: FG_EIO (with the file's name; also of
 * a full disk), FG_ENOMEM, FG_EINVAL (an argument).
 */
#ifndef FG_SRC_ENGINE_SAVED_H
#define FG_SRC_ENGINE_SAVED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/fulgur.h"
#include "src/model/state.h"

typedef struct fg_saved fg_saved;

enum { FG_SAVED_NAME_MAX = 64 };
#define FG_SAVED_BYTES UINT64_C(8000000000) /* of the snapshots of a session together */

/* Whether a session can have this name: 1 to 64 of A-Z a-z 0-9 _ -, the first no -.
 * FG_EINVAL. */
fg_status fg_saved_check_name(const char *name, fg_err *err);

typedef struct fg_saved_opts {
    uint64_t bytes; /* of all snapshots together, the newest apart; 0: FG_SAVED_BYTES */
    /* Of another model with the same tokenizer, another cache type or version of the numerics: all
     * ids are evaluated again, which takes as long as it did.  Without it that is an error which
     * names both. */
    bool rebuild;
    bool must_exist;  /* FG_EINVAL when there is no such session */
    bool must_be_new; /* FG_EINVAL when there is one */
    /* Told, in a line without its end, what of the files was damaged and where the session goes on.
     * May be NULL. */
    void (*note)(void *ctx, const char *line);
    /* Of what is read, with bytes, and of what is evaluated again, with tokens, after each slice of
     * them (within one, the session's own progress is called); false stops (FG_ECANCEL).  May be
     * NULL. */
    bool (*progress)(void *ctx, bool tokens, uint64_t done, uint64_t total);
    void *ctx;
    /* When something is due; 0: 64 tokens, 30 s, 1,024 tokens, 10 minutes. */
    uint64_t log_tokens, log_ms, save_tokens, save_ms;
} fg_saved_opts;

/* Opens dir/NAME.fgs for the session: a new one, the folder made with those above it (0700), which
 * takes what the session holds by now; or one that is there, whose state and ids the session gets
 * in place of its own.  It has logits then,
 * if it has tokens.  The folder is locked until
 * it is closed.  Other errors: FG_EIO (in use), FG_ENOTSUP (another model, cache type or numerics;
 * see rebuild), FG_ELIMIT (more tokens than the session has room for), FG_EVERSION, FG_EFORMAT (no
 * log of ours), those of fg_session_eval. */
fg_status fg_saved_open(fg_saved **out, fg_session *s, const char *dir, const char *name,
                        const fg_saved_opts *o, fg_err *err);
/* Writes nothing.  Accepts NULL.  The session stays, and must not be destroyed before. */
void fg_saved_close(fg_saved **k);

const char *fg_saved_name(const fg_saved *k);

/* What happened at the session's present position, for who reads the session later. */
typedef enum fg_saved_kind {
    FG_SAVED_SETTINGS = 0, /* all of them, in place of earlier ones; the caller's own */
    /* Its text, behind a byte with the fg_message_role.  Of the assistant's, where its reply begins
     * and without text: that are the ids from there to the END or the next message.  In place of
     * one of the same role at the same position, and of what was noted behind that: so a message
     * whose prompt was stopped is said again at its place, whatever of it is evaluated. */
    FG_SAVED_MESSAGE = 1,
    /* Tokens from there on were given, not sampled: u32 fg_forced, u32 how many. */
    FG_SAVED_FORCED = 2,
    FG_SAVED_END = 3,   /* the reply ended, and why: fg_end_name or the like */
    FG_SAVED_TITLE = 4, /* in place of earlier ones */
    FG_SAVED_KIND_COUNT
} fg_saved_kind;
/* Kept in memory till the next call below that writes.  Undone with the tokens: a rewind to the
 * position of a note, or to before it, forgets it, but settings and title; an END stays when the
 * rewind is to its position.  FG_ENOMEM, FG_EINVAL. */
fg_status fg_saved_note(fg_saved *k, fg_saved_kind kind, const void *payload, size_t n,
                        fg_err *err);
/* The same of an earlier position, behind which nothing else was noted. */
fg_status fg_saved_note_at(fg_saved *k, uint64_t pos, fg_saved_kind kind, const void *payload,
                           size_t n, fg_err *err);
fg_status fg_saved_message(fg_saved *k, fg_message_role role, const char *text, size_t n,
                           fg_err *err);
fg_status fg_saved_message_at(fg_saved *k, uint64_t pos, fg_message_role role, const char *text,
                              size_t n, fg_err *err);
fg_status fg_saved_forced(fg_saved *k, uint64_t pos, fg_forced why, uint64_t n, fg_err *err);

/* ---- writing ----
 *
 * state[n]: what the generator needs to go on with this reply from the present position (opaque
 * here); NULL: no reply is under way.  It belongs to the ids: both reach the disk or none does. */

/* Whether the log or a snapshot is due by tokens or time.  Cheap, for every token. */
bool fg_saved_due(const fg_saved *k);
/* Writes what is due: the log, and after 1,024 tokens or 10 minutes blocks and a snapshot of the
 * chunk boundary behind which the session is. */
fg_status fg_saved_keep(fg_saved *k, const void *state, size_t n, fg_err *err);
/* The log, now. */
fg_status fg_saved_sync(fg_saved *k, const void *state, size_t n, fg_err *err);
/* All, now, so that opening evaluates one token: at the end of a turn, by /save and on SIGTERM. */
fg_status fg_saved_save(fg_saved *k, const void *state, size_t n, fg_err *err);

/* How many of `left` tokens to evaluate at once until fg_saved_keep is to be called: a pass cannot
 * be saved within, and no more than fg_saved_opts says is to be evaluated again. */
uint64_t fg_saved_slice(fg_saved *k, uint64_t left);
/* fg_session_eval in such slices, after each of which is saved what is due; a prompt that is killed
 * or stopped goes on behind the last of them.  A failure to write does not stop it, but is the
 * result when nothing else failed. */
fg_status fg_saved_eval(fg_saved *k, const uint32_t *ids, size_t n, fg_err *err);
/* fg_saved_keep on the way through ids that the log has, after fg_saved_back: what is behind them
 * there is not undone. */
fg_status fg_saved_keep_parts(fg_saved *k, fg_err *err);

/* ---- going back ---- */

/* Goes back to pos (at most the present one), or as near before it as can be done without
 * evaluating: from memory or the nearest snapshot.  *at: where it is.  to: where it is to go from
 * there, with the ids that the log has; whoever does not get there leaves what the log has before
 * `to` as it is.  Errors: FG_ENOMEM, FG_EIO (the state of a card). */
fg_status fg_saved_back(fg_saved *k, uint64_t pos, uint64_t to, uint64_t *at, fg_err *err);
/* Where that would go. */
uint64_t fg_saved_reach(const fg_saved *k, uint64_t pos);
/* Makes the session hold its first pos tokens, with the logits of the last one: from memory where
 * that is free or near, else from the nearest snapshot; what is between is evaluated again.  Errors
 * as fg_session_eval; after FG_ECANCEL the session is at an earlier position. */
fg_status fg_saved_rewind(fg_saved *k, uint64_t pos, fg_err *err);
/* Tokens that it would evaluate. */
uint64_t fg_saved_rewind_cost(const fg_saved *k, uint64_t pos);

/* What the log has from pos on is undone, as far as it goes, notes of pos as well (but an END), and
 * the session's ids from there on are told anew: notes of them may follow, and reach the disk in
 * the same group, or none does.  FG_ENOMEM. */
fg_status fg_saved_retell(fg_saved *k, uint64_t pos, fg_err *err);
/* It belongs to another session of the same engine and cache type now, which holds the same
 * tokens. */
void fg_saved_move(fg_saved *k, fg_session *s);

/* Saves, makes a second session of it, and goes on with that one; the first is left as it is.
 * Snapshots are shared (hard links), blocks too where the file system can (reflinks), else they are
 * copied.  FG_EINVAL: the name is taken. */
fg_status fg_saved_branch(fg_saved *k, const char *name, const void *state, size_t n, fg_err *err);

/* ---- reading ---- */

/* Of a session's log, what was not undone. */
typedef struct fg_saved_event {
    fg_saved_kind kind;
    uint64_t pos; /* of the session then */
    const uint8_t *payload;
    size_t n;
} fg_saved_event;
typedef struct fg_saved_model {
    uint64_t data_root, tokenizer; /* hashes */
    uint32_t kv_numerics;
    fg_kv_type kv;
    char name[96]; /* of its file; cut */
} fg_saved_model;
typedef struct fg_saved_info {
    fg_saved_model model;
    uint64_t n_token, n_message;
    uint64_t n_ctx;      /* room that it had */
    uint64_t bytes;      /* of its files */
    int64_t modified_s;  /* of the log, since 1970 */
    bool in_reply;       /* it was left in the middle of one: the last event is its message */
    bool in_use;         /* another process has it open */
    bool stripped;       /* has no snapshot */
    const uint32_t *ids; /* [n_token] */
    const fg_saved_event *event; /* [n_event] in order */
    size_t n_event;
    const char *title;       /* NULL: none */
    const uint8_t *settings; /* [n_settings] the last ones; NULL: none */
    size_t n_settings;
    const uint8_t *state; /* [n_state] what was given last and not undone; NULL: nothing */
    size_t n_state;
    uint64_t state_pos; /* its position: n_token in a reply */
} fg_saved_info;
/* Reads dir/NAME.fgs, also one that is in use.  *out is freed with fg_saved_info_free, and owns
 * what it points to.  FG_EINVAL: no such session. */
fg_status fg_saved_read(fg_saved_info **out, const char *dir, const char *name, fg_err *err);
void fg_saved_info_free(fg_saved_info **info); /* accepts NULL */

/* Calls one(ctx, name) for each session of the folder, latest first; false ends it.  A folder that
 * is not there has none. */
fg_status fg_saved_list(const char *dir, bool (*one)(void *ctx, const char *name), void *ctx,
                        fg_err *err);

/* Removes it.  FG_EIO: in use. */
fg_status fg_saved_remove(const char *dir, const char *name, fg_err *err);
/* Removes blocks and snapshots: what remains is made again when it is opened.  *bytes: freed. */
fg_status fg_saved_strip(const char *dir, const char *name, uint64_t *bytes, fg_err *err);
/* Reads every byte; one(ctx, line) for each damaged part.  FG_ECHECKSUM names the first. */
fg_status fg_saved_verify(const char *dir, const char *name,
                          bool (*progress)(void *ctx, uint64_t done, uint64_t total),
                          void (*one)(void *ctx, const char *line), void *ctx, fg_err *err);

/* ---- sizes ---- */

/* Bytes of the parts of a session at position pos, to the byte. */
typedef struct fg_saved_sizes {
    uint64_t kv;       /* file of blocks */
    uint64_t state;    /* of a snapshot: S, */
    uint64_t tail;     /* keys and values of lightning layers since the boundary, */
    uint64_t rows;     /* rows of the unfinished block of the cache, */
    uint64_t snapshot; /* and its file: those, a page of header, 8 bytes for each MiB */
} fg_saved_sizes;
fg_saved_sizes fg_saved_sizes_of(const fg_shape *shape, fg_kv_type kv, uint64_t pos);

#endif
