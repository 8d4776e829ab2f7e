/* SPDX-License-Identifier: MIT
 *
 * The queue and its thread.  Everything but `ready` is under one lock, which is held for
 * microseconds; the thread lets go of it while it waits for the disk.
 *
 * New loads wake the thread at once when nothing is in flight; otherwise it sees them when the next
 * piece arrives, a fraction of a millisecond later, and the disk is busy until then anyway.
 */
#include "src/expert/fetch.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "src/base/clock.h"
#include "src/base/io.h"
#include "src/base/mem.h"
#include "src/sys/topo.h"

typedef unsigned long long ull; /* for %llu */

enum {
    MAX_RETRY = 3,        /* of a load whose reads fail */
    MAX_INTERRUPT = 1000, /* of a load whose reads are interrupted, or too short to go on after */
    SPIN_ROUNDS = 2000,   /* pause instructions before a waiting thread sleeps, some 10 us */
};

typedef struct queue {
    fg_load *head;
} queue;

typedef struct range {
    uint64_t offset, bytes;
} range;

struct fg_fetch {
    char *path;
    int fd;
    bool direct;
    fg_stamp opened;
    bool (*check)(const void *ctx, const uint8_t *bytes, uint64_t n, uint64_t offset);
    const void *check_ctx;
    const fg_io_ops *ops;
    void *ctx;
    uint32_t depth, piece_bytes;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;   /* protects what follows, and all loads but `ready` */
    pthread_cond_t work;    /* to the thread */
    pthread_cond_t arrival; /* to everybody else: something arrived, failed or is drained */
    queue urgent, lazy;
    fg_io_piece piece[FG_IO_MAX_DEPTH];
    fg_io_piece *free;
    uint32_t n_flight, n_lazy; /* pieces; those that are not urgent */
    bool stop;
    fg_err err;                  /* the first of an urgent load */
    range drop[FG_IO_MAX_DEPTH]; /* the thread's own: what the page cache is to give up */
    uint32_t n_drop;
    uint64_t bytes, busy_ns, busy_since, n_retry;
    _Atomic uint64_t wait_ns;
};

/* ---- the list of backends ---- */

static const struct {
    const char *name;
    const fg_io_ops *ops;
} backends[FG_IO_COUNT] = {
#define IO_ROW(id, name, ops) [id] = {name, ops},
    FG_IO_MAP(IO_ROW)
#undef IO_ROW
};
#define IO_ONE(id, name, ops) +1
_Static_assert(0 FG_IO_MAP(IO_ONE) == FG_IO_COUNT, "a row a way to read");
#undef IO_ONE

bool fg_io_get(fg_io io, const fg_io_ops **ops)
{
    if ((uint32_t)io >= FG_IO_COUNT) return false;
    *ops = backends[io].ops;
    return true;
}

const char *fg_io_name(fg_io io)
{
    return (uint32_t)io < FG_IO_COUNT ? backends[io].name : NULL;
}

/* ---- queue ---- */

static void append(queue *q, fg_load *load)
{
    fg_load **at = &q->head;
    while (*at != NULL) at = &(*at)->next;
    load->next = NULL;
    *at = load;
    load->queued = true;
}

static void unqueue(fg_fetch *r, fg_load *load)
{
    if (!load->queued) return;
    fg_load **at = load->urgent ? &r->urgent.head : &r->lazy.head;
    while (*at != load) at = &(*at)->next;
    *at = load->next;
    load->next = NULL;
    load->queued = false;
}

/* First load of the queue that may start a piece: one whose memory nobody else is still filling. */
static fg_load *first_ready(const queue *q)
{
    fg_load *l = q->head;
    while (l != NULL && l->n_stale != 0) l = l->next;
    return l;
}

/* A read that nobody waits for yet starts only when there is none that somebody waits for, not even
 * in flight, since the drive is shared; and half of the depth is kept free of them. */
static fg_load *pick(const fg_fetch *r)
{
    if (r->stop || r->free == NULL) return NULL;
    if (r->urgent.head != NULL) return first_ready(&r->urgent);
    if (r->n_flight > r->n_lazy || r->n_lazy >= (r->depth + 1) / 2) return NULL;
    return first_ready(&r->lazy);
}

static void submit(fg_fetch *r, fg_io_piece *p)
{
    if (r->n_flight++ == 0) r->busy_since = fg_clock_ns();
    r->n_lazy += !p->urgent;
    p->load->n_flight++;
    r->ops->submit(r->ctx, p);
}

static void submit_next(fg_fetch *r, fg_load *load)
{
    fg_io_piece *p = r->free;
    r->free = p->next;
    const uint64_t left = load->bytes - load->issued;
    *p = (fg_io_piece){.dst = load->dst + load->issued,
                       .offset = load->offset + load->issued,
                       .bytes = left < r->piece_bytes ? (uint32_t)left : r->piece_bytes,
                       .load = load,
                       .serial = load->serial,
                       .urgent = load->urgent};
    load->issued += p->bytes;
    if (load->issued == load->bytes) unqueue(r, load);
    submit(r, p);
}

/* ---- arrival ---- */

/* Links, names and times move the stamp as well, and wrong weights are worse than a run that has to
 * be repeated: so the bytes are looked at. */
static bool has_changed(const fg_fetch *r, const fg_load *load)
{
    if (!fg_stamp_moved(&r->opened, r->fd)) return false;
    return r->check == NULL || !r->check(r->check_ctx, load->dst, load->bytes, load->offset);
}

/* The load's pieces that are still in flight become stale. */
static void give_up(fg_fetch *r, fg_load *load)
{
    unqueue(r, load);
    load->serial++;
    load->n_stale = load->n_flight;
}

/* error 0: the file has ended or changed. */
static void fail(fg_fetch *r, fg_load *load, const fg_io_piece *p, int error)
{
    fg_err *err = load->urgent && r->err.code == FG_OK ? &r->err : NULL;
    if (fg_stamp_moved(&r->opened, r->fd)) {
        (void)fg_fail(err, FG_EIO, "%s: changed while in use, expected the file as it was opened",
                      r->path);
    } else if (error == 0) {
        (void)fg_fail(err, FG_EIO, "%s: ends at byte %llu, expected %u bytes there", r->path,
                      (ull)p->offset, p->bytes);
    } else {
        (void)fg_fail(err, FG_EIO, "%s: %s at offset %llu, expected %u readable bytes", r->path,
                      strerror(error), (ull)p->offset, p->bytes);
    }
    give_up(r, load);
    atomic_store(&load->ready, FG_LOAD_FAILED);
}

/* A whole piece is there: moves `ready` on. */
static void arrive(fg_fetch *r, fg_load *load, const fg_io_piece *p)
{
    load->arrived[(p->offset - load->offset) / r->piece_bytes] = 1;
    uint64_t ready = atomic_load_explicit(&load->ready, memory_order_relaxed);
    while (ready < load->bytes && load->arrived[ready / r->piece_bytes] != 0) {
        const uint64_t left = load->bytes - ready;
        ready += left < r->piece_bytes ? left : r->piece_bytes;
    }
    if (ready == load->bytes) {
        if (has_changed(r, load)) {
            fail(r, load, p, 0);
            return;
        }
        if (!r->direct) r->drop[r->n_drop++] = (range){load->offset, load->bytes};
    }
    atomic_store(&load->ready, ready);
}

/* io_uring ends reads with ECANCELED that nobody cancelled (a signal or a debugger, some file
 * systems), and would again; pread does not know it.  Not under the lock. */
static void read_cancelled(const fg_fetch *r, fg_io_piece *p)
{
    if (p->result != -ECANCELED) return;
    const ssize_t got = pread(r->fd, p->dst, p->bytes, (off_t)p->offset);
    p->result = got < 0 ? -errno : (int32_t)got;
}

/* True when the piece is in flight again for what is missing. */
static bool try_again(fg_fetch *r, fg_load *load, fg_io_piece *p)
{
    const bool paused = p->result > 0 || p->result == -EINTR || p->result == -EAGAIN;
    uint32_t good = p->result > 0 ? (uint32_t)p->result : 0;
    if (r->direct) good -= good % FG_IO_ALIGN; /* the next read has to be aligned again */
    if (good == 0) { /* counted apart: interruptions do not use up what real errors are allowed */
        uint32_t *count = paused ? &load->n_interrupt : &load->n_retry;
        if ((*count)++ >= (paused ? MAX_INTERRUPT : MAX_RETRY)) return false;
    }
    r->n_retry++;
    r->bytes += good;
    p->dst += good;
    p->offset += good;
    p->bytes -= good;
    submit(r, p);
    return true;
}

static void finish(fg_fetch *r, fg_io_piece *p)
{
    fg_load *load = p->load;
    r->n_flight--;
    r->n_lazy -= !p->urgent;
    if (r->n_flight == 0) r->busy_ns += fg_clock_ns() - r->busy_since;
    load->n_flight--;
    if (p->serial != load->serial) {
        load->n_stale--;
    } else if (p->result == (int32_t)p->bytes) {
        r->bytes += p->bytes;
        arrive(r, load, p);
    } else if (p->result == 0) {
        fail(r, load, p, 0);
    } else if (!r->stop && try_again(r, load, p)) {
        return;
    } else {
        fail(r, load, p, p->result < 0 ? -p->result : EIO);
    }
    p->load = NULL;
    p->next = r->free;
    r->free = p;
}

/* Without direct reads the page cache has a second copy of each load.  Not under the lock: to drop
 * the pages of an expert takes milliseconds. */
static void drop_cached(fg_fetch *r)
{
    for (uint32_t i = 0; i < r->n_drop; i++) {
        (void)posix_fadvise(r->fd, (off_t)r->drop[i].offset, (off_t)r->drop[i].bytes,
                            POSIX_FADV_DONTNEED);
    }
    r->n_drop = 0;
}

static void *reader_main(void *arg)
{
    fg_fetch *r = arg;
    fg_io_piece *done[FG_IO_MAX_DEPTH];
    fg_binding_clear(); /* whoever opens a store may be bound to a core */
    (void)pthread_mutex_lock(&r->lock);
    for (;;) {
        fg_load *load;
        while ((load = pick(r)) != NULL) submit_next(r, load);
        const bool idle = r->n_flight == 0;
        if (idle && r->n_drop == 0) {
            if (r->stop) break;
            (void)pthread_cond_wait(&r->work, &r->lock);
            continue;
        }
        (void)pthread_mutex_unlock(&r->lock);
        drop_cached(r);
        const uint32_t n = idle ? 0 : r->ops->reap(r->ctx, done, r->depth);
        for (uint32_t i = 0; i < n; i++) read_cancelled(r, done[i]);
        (void)pthread_mutex_lock(&r->lock);
        for (uint32_t i = 0; i < n; i++) finish(r, done[i]);
        (void)pthread_cond_broadcast(&r->arrival);
    }
    (void)pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* ---- opening ---- */

/* Direct when the file system gives it: some refuse at opening, some at the first read. */
static fg_status open_file(fg_fetch *r, fg_err *err)
{
    void *probe = fg_mem_map(FG_IO_ALIGN);
    if (probe == NULL) return fg_fail_nomem(err, r->path);
    r->fd = fg_io_open(r->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    r->direct = r->fd >= 0 && (pread(r->fd, probe, FG_IO_ALIGN, 0) >= 0 || errno != EINVAL);
    fg_mem_unmap(probe, FG_IO_ALIGN);
    if (!r->direct) {
        if (r->fd >= 0) (void)close(r->fd);
        r->fd = fg_io_open(r->path, O_RDONLY | O_CLOEXEC);
    }
    if (r->fd < 0 || !fg_stamp_take(&r->opened, r->fd)) {
        return fg_fail(err, FG_EIO, "%s: %s, expected a readable file", r->path, strerror(errno));
    }
    return FG_OK;
}

static fg_status open_backend(fg_fetch *r, const fg_io_ops *ops, fg_err *err)
{
    if (ops != NULL) {
        r->ops = ops;
        return ops->open(&r->ctx, r->fd, r->depth, err);
    }
    r->ops = &fg_io_uring;
    if (r->ops->open(&r->ctx, r->fd, r->depth, NULL) == FG_OK) return FG_OK;
    r->ops = &fg_io_pread;
    return r->ops->open(&r->ctx, r->fd, r->depth, err);
}

/* With all signals blocked, so that they go to the program's threads and interrupt no read here. */
static fg_status start_threads(fg_fetch *r, const fg_io_ops *ops, fg_err *err)
{
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    fg_status st = open_backend(r, ops, err);
    if (st == FG_OK) {
        r->started = pthread_create(&r->thread, NULL, reader_main, r) == 0;
        if (!r->started) {
            st = fg_fail(err, FG_EIO, "reading thread: could not be started, expected one");
        }
    }
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return st;
}

fg_status fg_fetch_create(fg_fetch **out, const char *path, const fg_fetch_opts *opts, fg_err *err)
{
    *out = NULL;
    fg_fetch *r = fg_mem_zalloc(sizeof *r);
    if (r == NULL) return fg_fail_nomem(err, path);
    r->fd = -1;
    r->depth = opts->depth == 0 ? FG_IO_DEPTH : opts->depth;
    r->piece_bytes = opts->piece == 0 ? FG_IO_PIECE : opts->piece;
    r->check = opts->check;
    r->check_ctx = opts->check_ctx;
    assert(r->depth <= FG_IO_MAX_DEPTH && r->piece_bytes % FG_IO_ALIGN == 0);
    (void)pthread_mutex_init(&r->lock, NULL);
    (void)pthread_cond_init(&r->work, NULL);
    (void)pthread_cond_init(&r->arrival, NULL);
    for (uint32_t i = 0; i < r->depth; i++) {
        r->piece[i].next = r->free;
        r->free = &r->piece[i];
    }
    r->path = fg_mem_strndup(path, strlen(path));
    fg_status st = r->path == NULL ? fg_fail_nomem(err, path) : open_file(r, err);
    if (st == FG_OK) st = start_threads(r, opts->ops, err);
    if (st != FG_OK) {
        fg_fetch_destroy(&r);
        return st;
    }
    *out = r;
    return FG_OK;
}

void fg_fetch_destroy(fg_fetch **reader)
{
    fg_fetch *r = *reader;
    if (r == NULL) return;
    if (r->started) {
        (void)pthread_mutex_lock(&r->lock);
        r->stop = true;
        (void)pthread_cond_signal(&r->work);
        (void)pthread_mutex_unlock(&r->lock);
        (void)pthread_join(r->thread, NULL);
    }
    if (r->ctx != NULL) r->ops->close(r->ctx);
    (void)pthread_cond_destroy(&r->work);
    (void)pthread_cond_destroy(&r->arrival);
    (void)pthread_mutex_destroy(&r->lock);
    if (r->fd >= 0) (void)close(r->fd);
    fg_mem_free(r->path);
    fg_mem_free(r);
    *reader = NULL;
}

fg_status fg_fetch_peek(fg_fetch *r, void *dst, size_t n, uint64_t offset, fg_err *err)
{
    const size_t bytes = (size_t)fg_round_up(n, FG_IO_ALIGN);
    uint8_t *p = fg_mem_map(bytes);
    if (p == NULL) return fg_fail_nomem(err, r->path);
    ssize_t got;
    do {
        got = pread(r->fd, p, bytes, (off_t)offset);
    } while (got < 0 && errno == EINTR);
    fg_status st = FG_OK;
    if (got < (ssize_t)n) {
        st = fg_fail(err, FG_EIO, "%s: %s at offset %llu, expected %zu readable bytes", r->path,
                     got < 0 ? strerror(errno) : "ends", (ull)offset, n);
    } else {
        memcpy(dst, p, n);
    }
    fg_mem_unmap(p, bytes);
    return st;
}

/* ---- use ---- */

void fg_load_fini(fg_load *load)
{
    fg_mem_free(load->arrived);
    load->arrived = NULL;
    load->arrived_cap = 0;
}

fg_status fg_fetch_start(fg_fetch *r, fg_load *load, uint8_t *dst, uint64_t offset, uint64_t bytes,
                         bool urgent, fg_err *err)
{
    assert(bytes > 0 && (bytes | offset | (uintptr_t)dst) % FG_IO_ALIGN == 0);
    fg_status st = FG_OK;
    const size_t n = (size_t)((bytes + r->piece_bytes - 1) / r->piece_bytes);
    (void)pthread_mutex_lock(&r->lock);
    give_up(r, load);
    if (load->arrived_cap < n) {
        fg_mem_free(load->arrived);
        load->arrived = fg_mem_alloc(n);
        load->arrived_cap = load->arrived == NULL ? 0 : n;
    }
    if (load->arrived == NULL) {
        atomic_store(&load->ready, FG_LOAD_FAILED);
        st = fg_fail_nomem(err, r->path);
    } else {
        memset(load->arrived, 0, n);
        atomic_store(&load->ready, 0);
        load->dst = dst;
        load->offset = offset;
        load->bytes = bytes;
        load->issued = 0;
        load->n_retry = load->n_interrupt = 0;
        load->urgent = urgent;
        append(urgent ? &r->urgent : &r->lazy, load);
        (void)pthread_cond_signal(&r->work);
    }
    (void)pthread_mutex_unlock(&r->lock);
    return st;
}

void fg_fetch_cancel(fg_fetch *r, fg_load *load)
{
    (void)pthread_mutex_lock(&r->lock);
    if (load->queued && !load->urgent) {
        give_up(r, load);
        atomic_store(&load->ready, FG_LOAD_FAILED);
    }
    (void)pthread_mutex_unlock(&r->lock);
}

bool fg_fetch_hurry(fg_fetch *r, fg_load *load)
{
    (void)pthread_mutex_lock(&r->lock);
    const bool failed = atomic_load(&load->ready) == FG_LOAD_FAILED;
    if (!failed && !load->urgent) {
        const bool queued = load->queued;
        unqueue(r, load);
        load->urgent = true;
        for (uint32_t i = 0; i < r->depth; i++) {
            fg_io_piece *p = &r->piece[i];
            if (p->load != load || p->serial != load->serial || p->urgent) continue;
            p->urgent = true;
            r->n_lazy--;
        }
        if (queued) {
            append(&r->urgent, load);
            (void)pthread_cond_signal(&r->work);
        }
    }
    (void)pthread_mutex_unlock(&r->lock);
    return !failed;
}

static bool is_there(const fg_load *load, uint64_t bytes, bool *ok)
{
    const uint64_t ready = atomic_load_explicit(&load->ready, memory_order_acquire);
    *ok = ready != FG_LOAD_FAILED;
    return !*ok || ready >= bytes;
}

bool fg_fetch_wait(fg_fetch *r, fg_load *load, uint64_t bytes)
{
    bool ok;
    if (is_there(load, bytes, &ok)) return ok;
    const uint64_t t0 = fg_clock_ns();
    bool there = false;
    for (int i = 0; i < SPIN_ROUNDS && !there; i++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
        there = is_there(load, bytes, &ok);
    }
    if (!there) {
        (void)pthread_mutex_lock(&r->lock);
        while (!is_there(load, bytes, &ok)) (void)pthread_cond_wait(&r->arrival, &r->lock);
        (void)pthread_mutex_unlock(&r->lock);
    }
    atomic_fetch_add_explicit(&r->wait_ns, fg_clock_ns() - t0, memory_order_relaxed);
    return ok;
}

void fg_fetch_drain(fg_fetch *r, fg_load *load)
{
    (void)pthread_mutex_lock(&r->lock);
    give_up(r, load);
    while (load->n_flight != 0) (void)pthread_cond_wait(&r->arrival, &r->lock);
    (void)pthread_mutex_unlock(&r->lock);
}

fg_status fg_fetch_take_error(fg_fetch *r, fg_err *err)
{
    (void)pthread_mutex_lock(&r->lock);
    const fg_err got = r->err;
    r->err.code = FG_OK;
    (void)pthread_mutex_unlock(&r->lock);
    if (got.code != FG_OK && err != NULL) *err = got;
    return got.code;
}

fg_fetch_stats fg_fetch_get_stats(fg_fetch *r)
{
    (void)pthread_mutex_lock(&r->lock);
    const fg_fetch_stats s = {.bytes = r->bytes,
                              .busy_ns = r->busy_ns +
                                         (r->n_flight == 0 ? 0 : fg_clock_ns() - r->busy_since),
                              .wait_ns = atomic_load(&r->wait_ns),
                              .n_retry = r->n_retry,
                              .backend = r->ops->name,
                              .direct = r->direct};
    (void)pthread_mutex_unlock(&r->lock);
    return s;
}
