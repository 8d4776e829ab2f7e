/* SPDX-License-Identifier: MIT
 *
 * The inside of a saved session, for saved.c, saved_load.c, saved_branch.c and saved_folder.c.
 */
#ifndef FG_SRC_ENGINE_SAVED_IMPL_H
#define FG_SRC_ENGINE_SAVED_IMPL_H

#include "src/engine/saved.h"
#include "src/engine/session.h"
#include "src/engine/session_log.h"
#include "src/engine/session_parts.h"

/* Whose files they are. */
typedef struct fg_folder {
    char *dir;  /* of all sessions */
    char *path; /* dir/NAME.fgs */
    char *log_path, *kv_path;
    char name[FG_SAVED_NAME_MAX + 1];
} fg_folder;
fg_status fg_folder_init(fg_folder *f, const char *dir, const char *name, fg_err *err);
/* The same with another ending than ".fgs", which no session has. */
fg_status fg_folder_init_as(fg_folder *f, const char *dir, const char *name, const char *ending,
                            fg_err *err);
void fg_folder_fini(fg_folder *f);
/* Makes it, with what is above it. */
fg_status fg_folder_make(const fg_folder *f, fg_err *err);
/* path of snapshot `number`, or of the file that is to become it; NULL: no memory.  fg_mem_free. */
char *fg_folder_snapshot(const fg_folder *f, uint64_t number, bool part);
/* Opens and locks the log; *fd -1 when there is none and it is not to be made. */
fg_status fg_folder_lock(const fg_folder *f, bool create, int *fd, fg_err *err);
/* Removes blocks and snapshots but those of h's marks (NULL: all). */
void fg_folder_clean(const fg_folder *f, const fg_history *h);
/* Removes all files of ours. */
fg_status fg_folder_empty(const fg_folder *f, fg_err *err);
/* And the folder. */
fg_status fg_folder_remove(const fg_folder *f, fg_err *err);

struct fg_saved {
    fg_session *s;
    fg_engine *e;
    const fg_shape *shape;
    fg_folder folder;
    fg_saved_opts o;
    fg_log log;
    int kv_fd;
    fg_history h;    /* as the log will be with what waits to be written; without events */
    uint64_t way_to; /* the session is on its way there while it has the log's ids before it */
    uint64_t *gone;  /* snapshots whose files go once the log says so */
    size_t n_gone, cap_gone;
    uint64_t log_pos, log_ns, save_pos, save_ns; /* of the last time; the snapshot's position */
    uint64_t retry_ns;                           /* after a failure, when it is tried again */
    /* Of the last slice: where it began and ends, when it began; what a token of one took, 0: not
     * known. */
    uint64_t slice_pos, slice_end, slice_ns, token_ns;
};

/* Writes the log. */
fg_status fg_saved_commit(fg_saved *k, fg_err *err);
/* This mark is no more: files and log follow with the next commit. */
fg_status fg_saved_drop(fg_saved *k, size_t mark, fg_err *err);
fg_bulk fg_saved_bulk(const fg_saved *k, fg_state *st);
void fg_saved_tell(const fg_saved *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
