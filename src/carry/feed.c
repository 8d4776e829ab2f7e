/* SPDX-License-Identifier: MIT */
#include "src/carry/feed.h"

#include <pthread.h>

#include "src/base/mem.h"
#include "src/carry/stick.h"

enum { RING = 4 };

struct fg_feed {
    fg_feed_read *read;
    void *ctx;
    uint32_t n, done, taken; /* blocks in all, read, given out */
    fg_block_buffer buf[RING];
    bool readable[RING];
    bool stop, threaded;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t moved; /* done, taken or stop */
};

static void *reader(void *ctx)
{
    fg_feed *f = ctx;
    for (uint32_t i = 0; i < f->n; i++) {
        (void)pthread_mutex_lock(&f->lock);
        /* the one that was given out last is still in use */
        while (!f->stop && i >= f->taken + RING - 1) (void)pthread_cond_wait(&f->moved, &f->lock);
        const bool stop = f->stop;
        (void)pthread_mutex_unlock(&f->lock);
        if (stop) break;
        const bool ok = f->read(f->ctx, i, f->buf[i % RING].p);
        (void)pthread_mutex_lock(&f->lock);
        f->readable[i % RING] = ok;
        f->done = i + 1;
        (void)pthread_cond_broadcast(&f->moved);
        (void)pthread_mutex_unlock(&f->lock);
    }
    return NULL;
}

fg_status fg_feed_start(fg_feed **out, fg_feed_read *read, void *ctx, uint32_t n, fg_err *err)
{
    fg_feed *f = *out = fg_mem_zalloc(sizeof *f);
    if (f == NULL) return fg_fail_nomem(err, "carry");
    f->read = read;
    f->ctx = ctx;
    f->n = n;
    bool ok = true;
    for (int i = 0; i < RING; i++) ok = ok && fg_block_buffer_make(&f->buf[i]);
    (void)pthread_mutex_init(&f->lock, NULL);
    (void)pthread_cond_init(&f->moved, NULL);
    if (!ok) {
        fg_feed_stop(out);
        return fg_fail_nomem(err, "carry");
    }
    f->threaded = n > 1 && pthread_create(&f->thread, NULL, reader, f) == 0;
    return FG_OK;
}

const uint8_t *fg_feed_next(fg_feed *f, bool *readable)
{
    const uint32_t at = f->taken % RING;
    if (!f->threaded) {
        *readable = f->read(f->ctx, f->taken++, f->buf[at].p);
        return f->buf[at].p;
    }
    (void)pthread_mutex_lock(&f->lock);
    while (f->done <= f->taken) (void)pthread_cond_wait(&f->moved, &f->lock);
    *readable = f->readable[at];
    f->taken++;
    (void)pthread_cond_broadcast(&f->moved);
    (void)pthread_mutex_unlock(&f->lock);
    return f->buf[at].p;
}

void fg_feed_stop(fg_feed **out)
{
    fg_feed *f = *out;
    if (f == NULL) return;
    (void)pthread_mutex_lock(&f->lock);
    f->stop = true;
    (void)pthread_cond_broadcast(&f->moved);
    (void)pthread_mutex_unlock(&f->lock);
    if (f->threaded) (void)pthread_join(f->thread, NULL);
    (void)pthread_cond_destroy(&f->moved);
    (void)pthread_mutex_destroy(&f->lock);
    for (int i = 0; i < RING; i++) fg_block_buffer_free(&f->buf[i]);
    fg_mem_free(f);
    *out = NULL;
}
