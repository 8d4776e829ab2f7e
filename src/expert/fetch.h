/* SPDX-License-Identifier: MIT
 *
 * Asynchronous reading of long ranges of one file: an expert, a layer's dense part.
 *
 * A load is cut into pieces, several of which are in flight at a time; they may arrive in any order
 * and `ready` tells how many bytes from the start are there, so that work on the first can begin
 * while the rest is on its way.  One thread owns the queue and the backend; nobody else makes a
 * system call for a read.  Reads are direct (O_DIRECT) where the file system allows it: the page
 * cache then holds nothing of the model, and no copy is made.
 *
 * Backends: io_uring, or a few threads with pread where io_uring is refused (seccomp, old kernels).
 *
 * Errors: an interrupted or short read goes on after what arrived, a cancelled one is done with
 * pread, a failed one is tried again; when that does not help, or the file has been written to, the
 * load fails, and what failed first can be asked for.  A file whose size or times have moved counts
 * as written to, unless whoever knows its bytes says that they are right.
 */
#ifndef FG_SRC_EXPERT_FETCH_H
#define FG_SRC_EXPERT_FETCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "src/base/status.h"
#include "src/fulgur.h"

/* Alignment of offsets, lengths and memory of direct reads. */
enum { FG_IO_ALIGN = 4096 };

/* One read in flight. */
typedef struct fg_io_piece {
    uint8_t *dst;
    uint64_t offset; /* absolute, bytes */
    uint32_t bytes;
    int32_t result;           /* bytes read, or -errno */
    struct fg_io_piece *next; /* for the backend's own lists */
    /* not for backends */
    struct fg_load *load;
    uint32_t serial;
    bool urgent;
} fg_io_piece;

/* A way to read pieces.  All calls come from one thread.  Tests put their own in front of another
 * one to make reads fail. */
typedef struct fg_io_ops {
    const char *name;
    /* Room for `depth` pieces in flight.  FG_ENOTSUP: this machine refuses. */
    fg_status (*open)(void **ctx, int fd, uint32_t depth, fg_err *err);
    /* Nothing is in flight. */
    void (*close)(void *ctx);
    /* Starts a piece; never blocks.  At most `depth` are in flight. */
    void (*submit)(void *ctx, fg_io_piece *p);
    /* Up to `max` finished pieces with their results; waits for one or more when none is there.
     * May return 0 (interrupted). */
    uint32_t (*reap)(void *ctx, fg_io_piece **done, uint32_t max);
} fg_io_ops;

extern const fg_io_ops fg_io_uring, fg_io_pread;

/* Makes n rings of io_uring for readers to come, of FG_FETCH_MOST_KEPT at most, where none can be
 * made any more; as many as there can be.  Before there are other threads. */
enum { FG_FETCH_MOST_KEPT = 40 };
void fg_fetch_reserve(uint32_t n);

/* The ways to read: enumerator (src/fulgur.h says what each does), name, what does it. */
#define FG_IO_MAP(X)                                                                               \
    X(FG_IO_AUTO, "auto", NULL)                                                                    \
    X(FG_IO_URING, "uring", &fg_io_uring)                                                          \
    X(FG_IO_PREAD, "pread", &fg_io_pread)

/* What fg_fetch_opts takes for io; false: no such way. */
bool fg_io_get(fg_io io, const fg_io_ops **ops);

enum {
    FG_IO_DEPTH = 16,      /* pieces in flight */
    FG_IO_PIECE = 1 << 20, /* bytes of a piece; with 16 in flight a virtual NVMe gives all it has */
    FG_IO_MAX_DEPTH = 64,
};

#define FG_LOAD_FAILED UINT64_MAX

/* A range on its way.  Zero-initialised by the owner, who keeps it and dst until the reader is
 * destroyed or fg_fetch_drain returned, and frees it with fg_load_fini then. */
typedef struct fg_load {
    _Atomic uint64_t ready; /* bytes from the start that are there, or FG_LOAD_FAILED */
    /* the rest belongs to the reader */
    uint8_t *dst;
    uint64_t offset, bytes;
    uint64_t issued;    /* bytes of pieces that were started */
    uint8_t *arrived;   /* [pieces] */
    size_t arrived_cap; /* bytes of arrived */
    uint32_t n_flight;  /* pieces with this load as owner */
    uint32_t n_stale;   /* those of them that an earlier use of the load started */
    uint32_t serial;    /* of the present use */
    uint32_t n_retry, n_interrupt;
    bool queued, urgent;
    struct fg_load *next;
} fg_load;

void fg_load_fini(fg_load *load);

typedef struct fg_fetch fg_fetch;

typedef struct fg_fetch_opts {
    const fg_io_ops *ops; /* NULL: io_uring, else pread */
    uint32_t depth;       /* pieces in flight, 1 .. FG_IO_MAX_DEPTH; 0: FG_IO_DEPTH */
    uint32_t piece;       /* bytes, multiple of FG_IO_ALIGN; 0: FG_IO_PIECE */
    /* Asked about a load once size or times of the file have moved: are these its bytes?  From the
     * reading thread, which waits.  NULL: no. */
    bool (*check)(const void *ctx, const uint8_t *bytes, uint64_t n, uint64_t offset);
    const void *check_ctx;
} fg_fetch_opts;

/* Opens `path` once more, for direct reading.  Errors: FG_EIO, FG_ENOMEM, FG_ENOTSUP (ops). */
fg_status fg_fetch_create(fg_fetch **out, const char *path, const fg_fetch_opts *opts, fg_err *err);
/* Gives up what is queued, waits for what is in flight.  Accepts NULL. */
void fg_fetch_destroy(fg_fetch **r);

/* Reads with the reader's own descriptor, blocking: the first bytes of the file, to compare. */
fg_status fg_fetch_peek(fg_fetch *r, void *dst, size_t n, uint64_t offset, fg_err *err);

/* Starts to read bytes (> 0) at offset into dst, both and dst multiples of FG_IO_ALIGN.  A load may
 * be started again at any time, also unfinished: what it was is given up, and pieces of it that are
 * in flight are waited for before the first new one.  urgent: before all loads that are not.
 * FG_ENOMEM leaves the load failed. */
fg_status fg_fetch_start(fg_fetch *r, fg_load *load, uint8_t *dst, uint64_t offset, uint64_t bytes,
                         bool urgent, fg_err *err);

/* Gives up a load that is not urgent and not all on its way: it has failed then, and waits for
 * nothing. */
void fg_fetch_cancel(fg_fetch *r, fg_load *load);

/* A load that was not urgent becomes so; false: it has failed and must be started again. */
bool fg_fetch_hurry(fg_fetch *r, fg_load *load);

/* Waits until `bytes` from the start are there: at once true when they are, which costs one atomic
 * load.  False: the load failed.  Any thread. */
bool fg_fetch_wait(fg_fetch *r, fg_load *load, uint64_t bytes);

/* Gives up the load if it is queued, and waits until none of it is in flight: dst is the
 * owner's. */
void fg_fetch_drain(fg_fetch *r, fg_load *load);

/* What failed first since the last call; FG_OK and *err untouched when nothing did. */
fg_status fg_fetch_take_error(fg_fetch *r, fg_err *err);

typedef struct fg_fetch_stats {
    uint64_t bytes;   /* read, all loads */
    uint64_t busy_ns; /* time with at least one piece in flight */
    uint64_t wait_ns; /* time that threads waited, added up */
    uint64_t n_retry; /* reads that had to be repeated or continued */
    const char *backend;
    bool direct;
} fg_fetch_stats;
fg_fetch_stats fg_fetch_get_stats(fg_fetch *r);

#endif
